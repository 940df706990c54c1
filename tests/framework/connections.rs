//! The connections of the database: statements that outlive their request, and connections that cannot be used again.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        database::{TableLock, run_as_superuser, wait_for_connections},
        requests::{assert_statuses, begin_get, get_at_once},
    },
};
use devstack::{
    DEFAULT_TIMEOUT, RunningService, Tenant, eventually,
    reqwest::{Method, RequestBuilder, StatusCode},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

/// Returns the number of statements of the service that the server is working on.
async fn running_statements(tenant: &Tenant) -> i64 {
    let mut admin = tenant.admin().await.expect("a connection");
    sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active'")
        .bind(tenant.app_role())
        .fetch_one(&mut admin)
        .await
        .expect("a count")
}

#[tokio::test]
async fn a_statement_ends_with_the_request_that_asked_for_it() {
    let tenant = SERVICE.migrated("orphans").await;
    let launch = SERVICE.launch(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "2s");
    let running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    let lock = TableLock::on(&tenant, "notes").await;
    let requests: Vec<_> = (0..10).map(|_| begin_get(&running, &note)).collect();
    wait_for_connections(&tenant, 10).await;
    for request in requests {
        assert_eq!(request.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let has_none = async || match running_statements(&tenant).await {
        0 => Ok(()),
        count => Err(format!("{count} statements")),
    };
    eventually("the end of all statements, although the table is still locked", has_none).await;
    lock.release().await;
    assert_statuses(&get_at_once(&running, &note, 20).await, StatusCode::OK);
}

#[tokio::test]
async fn a_changed_column_fails_each_open_connection_once_at_most() {
    let tenant = SERVICE.migrated("cached_plan").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    assert_statuses(&get_at_once(&running, &note, 40).await, StatusCode::OK);
    run_as_superuser(
        &tenant,
        format!("SET ROLE {}; ALTER TABLE notes ALTER COLUMN body TYPE varchar", tenant.migrator_role()),
    )
    .await;
    // Requests that meet the old statement fail. The first of them ends the use of all connections that have it.
    get_at_once(&running, &note, 40).await;
    assert_statuses(&get_at_once(&running, &note, 40).await, StatusCode::OK);
}

#[tokio::test]
async fn a_login_that_was_dropped_is_noticed_on_its_open_connections() {
    let tenant = SERVICE.migrated("dropped").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let role = tenant.app_role();
    let password = devstack::random_password();
    // As a manager that minted the role does at the end of its lease. The role lives on under another name.
    let access = tenant.access_role();
    run_as_superuser(&tenant, format!("REVOKE {access} FROM {role}; ALTER ROLE {role} NOLOGIN")).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let is_noticed = async || running.status().await["last_reload"]["trigger"] == "refused_login";
    eventually("a reload for the rejected login", is_noticed).await;
    run_as_superuser(&tenant, format!("ALTER ROLE {role} LOGIN; GRANT {access} TO {role}")).await;
    tenant.set_password(&role, &password).await.unwrap();
    let login = serde_json::json!({ "username": role, "password": password });
    tenant.put("database", &login.to_string()).await.unwrap();
    let is_served = async || running.get(&note).await.status() == StatusCode::OK;
    eventually("the next login", is_served).await;
}

/// Sends a request again and again. Every third time, the caller goes away in the middle.
async fn call_until(is_over: Arc<AtomicBool>, first: u64, request: RequestBuilder) {
    let mut number = first;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let patience = if number.is_multiple_of(3) { Duration::from_millis(number % 7) } else { DEFAULT_TIMEOUT };
        let request = request.try_clone().expect("it has no body").send();
        if let Ok(answer) = tokio::time::timeout(patience, request).await {
            assert_eq!(answer.expect("an answer").status(), StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn connections_stay_within_their_maximum_while_callers_go_away_and_logins_rotate() {
    let tenant = SERVICE.migrated("churn").await;
    let launch = SERVICE.launch(&tenant).env("APP_DATABASE__MAX_CONNECTIONS", "3");
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        callers.spawn(call_until(is_over.clone(), caller, running.request(Method::GET, &note)));
    }
    for _ in 0..20 {
        tenant.rotate("database").await.unwrap();
        assert_ne!(running.reload().await["outcome"], "kept");
        // PostgreSQL counts a closed one until its process has ended.
        eventually("3 connections, and one that proves a login", async || {
            let open = tenant.connections(&tenant.app_role()).await.unwrap();
            if open <= 4 { Ok(()) } else { Err(format!("{open} connections")) }
        })
        .await;
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.expect("no request failed");
    }
    let is_within = async || match tenant.connections(&tenant.app_role()).await.unwrap() {
        1..=3 => Ok(()),
        count => Err(format!("{count} connections")),
    };
    eventually("the maximum of connections or fewer", is_within).await;
    assert_statuses(&get_at_once(&running, &note, 20).await, StatusCode::OK);
}
