//! Connections to the database that die without a word, and a network that opens none or opens them slowly.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        database::{TableLock, wait_for_blocked_statements, wait_for_connections, wait_until_connections_are},
        requests::{assert_statuses, begin_get, get_at_once},
        tcp_proxy::{NewConnections, OpenFault, TcpProxy},
        time_waits::{let_time_pass, stays},
    },
};
use devstack::{RunningService, Tenant, eventually, reqwest::StatusCode};
use std::time::Duration;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Creates a tenant with tables, and a proxy before its database.
async fn tenant_with_proxy(label: &str) -> (Tenant, TcpProxy) {
    let tenant = SERVICE.migrated(label).await;
    let proxy = TcpProxy::before(&tenant).await;
    (tenant, proxy)
}

/// Starts the service behind the proxy, and creates a note. Returns the path of the note too.
async fn start_with_note<'a>(proxy: &TcpProxy, tenant: &'a Tenant) -> (RunningService<'a>, String) {
    let launch = proxy.launch(SERVICE.launch(tenant));
    let running = RunningService::start(launch, tenant).await;
    let note = running.create_note("a note").await;
    (running, note)
}

/// Begins ten requests whose connections are checked, and lets their callers go away during the check.
async fn abandon_checks(running: &RunningService<'_>, proxy: &TcpProxy, note: &str) {
    let before = proxy.sent();
    let mut callers = Vec::new();
    for _ in 0..10 {
        callers.push(begin_as_caller(running, note).await);
    }
    eventually("a check of each connection", async || proxy.sent() >= before + 10).await;
}

/// Opens this many connections, and waits until the pool checks them before it uses them.
async fn open_idle_connections(running: &RunningService<'_>, tenant: &Tenant, note: &str, count: usize) {
    use_connections_at_once(running, tenant, note, count).await;
    let_time_pass("the pool checks connections that were idle for 500 ms", Duration::from_millis(600)).await;
}

/// Checks that this many requests can use a connection at the same time.
async fn use_connections_at_once(running: &RunningService<'_>, tenant: &Tenant, note: &str, count: usize) {
    let lock = TableLock::on(tenant, "notes").await;
    let requests: Vec<_> = (0..count).map(|_| begin_get(running, note)).collect();
    wait_for_blocked_statements(tenant, count).await;
    lock.release().await;
    for request in requests {
        assert_eq!(request.await.expect("an answer").status(), StatusCode::OK);
    }
}

/// Begins a request. The caller goes away when the connection that this returns is dropped.
async fn begin_as_caller(running: &RunningService<'_>, path: &str) -> TcpStream {
    let mut caller = TcpStream::connect(&running.at.public).await.expect("the service listens");
    caller.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.expect("it reads");
    caller
}

#[tokio::test]
async fn the_first_request_is_served_after_ten_idle_connections_became_a_black_hole() {
    let (tenant, proxy) = tenant_with_proxy("black_hole").await;
    // Shorter than the checks of all ten connections.
    let launch = SERVICE.launch(&tenant).env("APP_DATABASE__ACQUIRE_TIMEOUT", "2s");
    let running = RunningService::start(proxy.launch(launch), &tenant).await;
    let note = running.create_note("a note").await;
    open_idle_connections(&running, &tenant, &note, 10).await;
    proxy.fail_open_connections(OpenFault::Swallow);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);

    open_idle_connections(&running, &tenant, &note, 10).await;
    proxy.fail_open_connections(OpenFault::Swallow);
    assert_statuses(&get_at_once(&running, &note, 40).await, StatusCode::OK);
}

#[tokio::test]
async fn no_request_fails_after_idle_connections_were_reset_or_closed() {
    let (tenant, proxy) = tenant_with_proxy("reset").await;
    let (running, note) = start_with_note(&proxy, &tenant).await;
    for fault in [OpenFault::Reset, OpenFault::Close] {
        open_idle_connections(&running, &tenant, &note, 10).await;
        proxy.fail_open_connections(fault);
        assert_statuses(&get_at_once(&running, &note, 40).await, StatusCode::OK);
    }
}

#[tokio::test]
async fn open_connections_serve_requests_while_new_ones_are_a_black_hole() {
    let (tenant, proxy) = tenant_with_proxy("no_new").await;
    let (running, note) = start_with_note(&proxy, &tenant).await;
    use_connections_at_once(&running, &tenant, &note, 3).await;
    proxy.set_new_connections(NewConnections::Swallowed);
    // More requests than connections: the pool tries to open others in vain.
    stays("the service", Duration::from_secs(3), async || {
        get_at_once(&running, &note, 20).await.iter().all(|answer| answer.status() == StatusCode::OK)
    })
    .await;
    proxy.set_new_connections(NewConnections::Forwarded);
    use_connections_at_once(&running, &tenant, &note, 10).await;
}

#[tokio::test]
async fn slow_logins_fail_no_request_during_a_rotation() {
    let (tenant, proxy) = tenant_with_proxy("slow_logins").await;
    let (mut running, note) = start_with_note(&proxy, &tenant).await;
    use_connections_at_once(&running, &tenant, &note, 10).await;
    proxy.set_new_connections(NewConnections::Delayed(Duration::from_millis(300)));
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    stays("the service", Duration::from_secs(2), async || {
        let answers = get_at_once(&running, &note, 20).await;
        let open = tenant.connections(&tenant.app_role()).await.unwrap();
        answers.iter().all(|answer| answer.status() == StatusCode::OK) && open <= 11
    })
    .await;
}

#[tokio::test]
async fn callers_that_go_away_while_their_connections_are_checked_leak_no_place() {
    let (tenant, proxy) = tenant_with_proxy("checked").await;
    let (running, note) = start_with_note(&proxy, &tenant).await;
    for _ in 0..5 {
        open_idle_connections(&running, &tenant, &note, 10).await;
        proxy.set_latency(Duration::from_millis(100));
        abandon_checks(&running, &proxy, &note).await;
        proxy.set_latency(Duration::ZERO);
    }
    use_connections_at_once(&running, &tenant, &note, 10).await;
    wait_until_connections_are(&tenant, 10).await;
}

#[tokio::test]
async fn dead_connections_whose_check_was_abandoned_are_not_used() {
    let (tenant, proxy) = tenant_with_proxy("abandoned").await;
    let (running, note) = start_with_note(&proxy, &tenant).await;
    open_idle_connections(&running, &tenant, &note, 10).await;
    proxy.fail_open_connections(OpenFault::Swallow);
    abandon_checks(&running, &proxy, &note).await;
    assert_statuses(&get_at_once(&running, &note, 40).await, StatusCode::OK);
}

#[tokio::test]
async fn connections_that_die_under_a_statement_give_their_places_back_when_it_would_have_ended() {
    let (tenant, proxy) = tenant_with_proxy("dies_busy").await;
    let (running, note) = start_with_note(&proxy, &tenant).await;
    let lock = TableLock::on(&tenant, "notes").await;
    let requests: Vec<_> = (0..10).map(|_| begin_get(&running, &note)).collect();
    wait_for_connections(&tenant, 10).await;
    wait_for_blocked_statements(&tenant, 10).await;
    proxy.fail_open_connections(OpenFault::Swallow);
    lock.release().await;
    for request in requests {
        assert_eq!(request.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_statuses(&get_at_once(&running, &note, 10).await, StatusCode::OK);
}
