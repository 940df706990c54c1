//! Reloads: the triggers, the outcomes, and the generations before and after.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder,
        database::{TableLock, wait_for_blocked_statements, wait_for_connections, wait_until_connections_are},
        launch_options::LaunchOptions,
        log_events::{events_of_level, events_that_say},
        reload_status::{assert_kept, wait_for_generation, wait_until_drained},
        requests::{begin_create, begin_get},
        secrets::{current_version, login_with_password, scripted_manager},
        slow_request::SlowRequest,
        time_waits::stays,
    },
};
use aws_sdk_secretsmanager::primitives::Blob;
use devstack::{
    DEFAULT_TIMEOUT, FaultRule, RunningService, ScriptedFault, Signal, Tenant, eventually, free_port,
    reqwest::StatusCode,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{net::UnixDatagram, time::timeout};

#[tokio::test]
async fn a_signal_loads_a_rotated_password() {
    let tenant = SERVICE.migrated("rotated").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("before").await;
    let (before, signing) = (running.credential("database").await, running.credential("signing").await);
    assert_eq!(before["version"], current_version(&tenant, "database").await);
    assert_eq!(before["stage"], "current");

    let version = tenant.rotate("database").await.unwrap();
    tenant.kill_connections(&tenant.app_role()).await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "published");
    assert_eq!(reload["trigger"], "signal");
    assert_eq!(reload["exit_code"], 0);
    assert_eq!(running.status().await["generation"], 2);
    let after = running.credential("database").await;
    assert_eq!(after["version"], version);
    assert_ne!(after["loaded"], before["loaded"]);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    assert_eq!(running.credential("signing").await["loaded"], signing["loaded"], "the signing keys did not change");
}

#[tokio::test]
async fn two_generations_together_stay_within_max_connections() {
    let tenant = SERVICE.migrated("allowed").await;
    let mut running =
        RunningService::start(SERVICE.launch(&tenant).env("APP_DATABASE__MAX_CONNECTIONS", "3"), &tenant).await;
    let lock = TableLock::on(&tenant, "notes").await;
    let mut waiting: Vec<_> = (0..3).map(|_| begin_create(&running, "waits for the lock")).collect();
    wait_for_connections(&tenant, 3).await;
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    waiting.extend((0..3).map(|_| begin_create(&running, "waits for a connection")));
    let has_three = async || tenant.connections(&tenant.app_role()).await.unwrap() == 3;
    // The connection that proves the new login is the fourth. It is closed at its publication.
    eventually("three connections", has_three).await;
    stays("the number of three connections", Duration::from_millis(500), has_three).await;
    lock.release().await;
    for request in waiting {
        assert_eq!(request.await.unwrap(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_signal_without_a_change_publishes_nothing() {
    let tenant = SERVICE.migrated("unchanged").await;
    let mut running = SERVICE.start(&tenant).await;
    running.create_note("a note").await;
    let before = running.credential("database").await;
    let logins = tenant.connections(&tenant.app_role()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(running.status().await["generation"], 1);
    let after = running.credential("database").await;
    assert_eq!(after["loaded"], before["loaded"]);
    assert_ne!(after["verified"], before["verified"]);
    assert_eq!(tenant.connections(&tenant.app_role()).await.unwrap(), logins);
}

#[tokio::test]
async fn one_malformed_credential_fails_the_whole_reload() {
    let tenant = SERVICE.migrated("among").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let before = running.credential("database").await;
    tenant.rotate("database").await.unwrap();
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    let reload = running.reload().await;
    assert_kept(&reload, 65);
    assert!(reload["error"].as_str().unwrap().contains("credential `signing`"), "{reload}");
    assert_eq!(running.status().await["generation"], 1);
    assert_eq!(running.credential("database").await["version"], before["version"]);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    let errors = events_of_level(&running.process, "ERROR");
    assert_eq!(errors.len(), 1, "one event: {errors:#?}");

    // Now the malformed version is the previous one. Only the current version must be well-formed.
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
}

#[tokio::test]
async fn a_malformed_pending_version_that_nobody_needs_fails_no_reload() {
    let tenant = SERVICE.migrated("pending").await;
    let pending = || tenant.client().put_secret_value().secret_id(tenant.id("signing")).version_stages("AWSPENDING");
    pending().secret_binary(Blob::new(b"sentinel-\xff")).send().await.unwrap();
    let mut running = SERVICE.start(&tenant).await;
    assert_eq!(running.reload().await["outcome"], "unchanged");
    let added = pending().secret_string("no key").send().await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 0);
    assert_eq!(running.credential("signing").await["others"], Value::Null, "it verifies nothing");
    assert_eq!(running.reload().await["outcome"], "unchanged", "it was seen before");
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let warnings = events_that_say(&running.process, "a version that is not current is malformed");
    let named: Vec<_> = warnings.iter().map(|event| event["fields"]["credential.version"].as_str()).collect();
    assert_eq!(named, [added.version_id()], "once: {warnings:#?}");
}

#[tokio::test]
async fn requests_are_served_while_the_manager_is_away() {
    let tenant = SERVICE.migrated("costs_nothing").await;
    let manager = scripted_manager(&tenant).await;
    let launch = SERVICE.launch(&tenant).with_manager(&manager).with_short_deadline();
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    tenant.rotate("database").await.unwrap();
    for (fault, code) in [
        (ScriptedFault::Status(500, "InternalServiceError"), 69),
        (ScriptedFault::BlackHole, 75),
        (ScriptedFault::Status(400, "AccessDeniedException"), 77),
        (ScriptedFault::Status(400, "ResourceNotFoundException"), 66),
    ] {
        manager.script([FaultRule::all(fault)]);
        let reload = running.reload().await;
        assert_kept(&reload, code);
        assert_eq!(running.get(&note).await.status(), StatusCode::OK);
        assert_eq!(running.admin("/readyz").await.0, StatusCode::OK);
    }
    manager.clear();
    assert_eq!(running.reload().await["exit_code"], 0, "this reload publishes, or a retry of the one before did");
    assert_eq!(running.status().await["generation"], 2);
}

#[tokio::test]
async fn a_rejected_login_in_a_reload_keeps_the_generation_in_service() {
    let tenant = SERVICE.migrated("kept").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let wrong = login_with_password(&tenant, "sentinel-wrong");
    tenant.put("database", &wrong).await.unwrap();
    let reload = running.reload().await;
    assert_kept(&reload, 77);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_finishes_on_the_generation_that_it_started_on() {
    let tenant = SERVICE.migrated("started_on").await;
    let mut running = SERVICE.start(&tenant).await;
    running.create_note("opens a connection").await;
    let slow = SlowRequest::start(&running).await;

    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let draining = running.status().await["draining"].clone();
    assert_eq!(draining[0]["generation"], 1, "{draining}");
    let reason = draining[0]["reason"].as_str().unwrap();
    // Its idle connection stays for a second.
    let reason = reason.replacen("1 request, 1 connection of `database`;", "1 request;", 1);
    assert!(reason.starts_with("1 request; versions held: `database` "), "{draining}");
    let replaced = running.credential("database").await["last_used"][0].clone();
    assert_eq!(replaced["version"], draining[0]["versions"]["database"][0]);

    // The idle connections of the old generation close, although a request still holds it. The one that is left proved
    // the new login.
    wait_until_connections_are(&tenant, 1).await;

    assert_eq!(slow.finish().await, StatusCode::CREATED);
    wait_until_drained(&running).await;
}

#[tokio::test]
async fn a_reload_that_waits_compares_the_generations() {
    let tenant = SERVICE.migrated("compared").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("read often").await;
    let read_often = async || {
        for _ in 0..20 {
            assert_eq!(running.get(&note).await.status(), StatusCode::OK);
        }
    };
    read_often().await;
    let reload = |settle: &'static str| {
        let launch = SERVICE.launch(&tenant).env("APP_ADMIN__LISTEN", running.at.admin.clone());
        let launch = launch.args(["reload", "--wait", "--settle", settle]);
        tokio::task::spawn_blocking(move || launch.run())
    };
    tenant.rotate("database").await.unwrap();
    let at_once = reload("0s").await.unwrap();
    assert_eq!(at_once.code, Some(0), "{}", at_once.stderr);
    assert!(at_once.stdout.contains("too early to compare: generation 2: 0 requests"), "{}", at_once.stdout);
    read_often().await;

    tenant.rotate("database").await.unwrap();
    let (settled, ()) = tokio::join!(reload("60s"), async {
        running.wait_until("the third generation", |status| status["generation"] == 3).await;
        read_often().await;
    });
    let settled = settled.unwrap();
    assert_eq!(settled.code, Some(0), "{}", settled.stderr);
    assert!(settled.stdout.contains("generation 3: 20 requests, 0 errors"), "{}", settled.stdout);
    assert_eq!(running.status().await["rotation"]["replaced"], 2);
    assert_eq!(reload("2h").await.unwrap().code, Some(64));
}

#[tokio::test]
async fn a_busy_connection_of_an_old_generation_closes_after_its_request() {
    let tenant = SERVICE.migrated("busy").await;
    let mut running = SERVICE.start(&tenant).await;
    // This request holds the generation until the end of the test.
    let slow = SlowRequest::start(&running).await;
    let lock = TableLock::on(&tenant, "notes").await;
    let waiting = begin_create(&running, "waits for the lock");
    wait_for_blocked_statements(&tenant, 1).await;
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let connections = tenant.connections(&tenant.app_role()).await.unwrap();
    assert_eq!(connections, 2, "a busy connection stays open, beside the one that proved the new login");
    lock.release().await;
    assert_eq!(waiting.await.unwrap(), StatusCode::CREATED);
    wait_until_connections_are(&tenant, 1).await;
    assert_eq!(running.status().await["draining"][0]["generation"], 1);
    assert_eq!(slow.finish().await, StatusCode::CREATED);
}

#[tokio::test]
async fn thousands_of_signals_cause_few_reloads() {
    let tenant = SERVICE.migrated("storm").await;
    let manager = scripted_manager(&tenant).await;
    let mut running = RunningService::start(SERVICE.launch(&tenant).with_manager(&manager), &tenant).await;
    let before = manager.requests(&tenant.id("database"));
    for _ in 0..5000 {
        running.process.signal(Signal::HUP);
    }
    let is_covered = |status: &Value| {
        let signals = &status["signals"];
        signals["seen"] != 0 && signals["seen"] == signals["last_reload"]["signals_covered"]
    };
    running.wait_until("the last reload", is_covered).await;
    let reloads = || manager.requests(&tenant.id("database")) - before;
    stays("a small number of reloads", Duration::from_millis(300), async || reloads() < 100).await;
    assert!((1..100).contains(&reloads()), "{} reloads", reloads());
    assert_eq!(running.status().await["generation"], 1);
}

#[tokio::test]
async fn a_poll_loads_a_rotated_password_without_a_signal() {
    let tenant = SERVICE.migrated("poll").await;
    let running = RunningService::start(SERVICE.launch(&tenant).env("APP_SECRETS__REFRESH_EVERY", "1s"), &tenant).await;
    tenant.rotate("database").await.unwrap();
    let status = wait_for_generation(&running, 2).await;
    assert_eq!(status["signals"]["seen"], 0);
    running.wait_until("the report of the poll", |status| status["last_reload"]["trigger"] == "poll").await;
}

#[tokio::test]
async fn stale_credentials_are_reported_until_a_reload_verifies_them() {
    let tenant = SERVICE.migrated("stale").await;
    let manager = scripted_manager(&tenant).await;
    for (when_stale, code, text) in
        [("report", StatusCode::OK, "degraded"), ("unready", StatusCode::SERVICE_UNAVAILABLE, "unready")]
    {
        manager.clear();
        let launch = SERVICE
            .launch(&tenant)
            .with_manager(&manager)
            .env("APP_SECRETS__MAX_STALE", "4s")
            .env("APP_SECRETS__WHEN_STALE", when_stale);
        let mut running = RunningService::start(launch, &tenant).await;
        let (ready, body) = running.admin("/readyz").await;
        assert_eq!((ready, body["status"].as_str()), (StatusCode::OK, Some("ready")));
        let body = eventually("stale credentials", async || {
            let (stale, body) = running.admin("/readyz").await;
            if (stale, body["status"].as_str()) == (code, Some(text)) { Ok(body) } else { Err(body) }
        });
        let body = body.await;
        assert!(body["reasons"].to_string().contains("max_stale"), "{body}");
        running.reload().await;
        assert_eq!(running.admin("/readyz").await.1["status"], "ready");
    }
}

#[tokio::test]
async fn a_reload_reads_the_configuration_again() {
    let tenant = SERVICE.migrated("reread").await;
    let folder = ConfigurationFolder::new();
    let mut running = RunningService::start(folder.launch(&tenant), &tenant).await;
    running.create_note("12345678901").await;

    folder.write("[service]\nmax_length = 10\n");
    assert_eq!(running.reload().await["outcome"], "published");
    let answer = running.post_json("/v1/notes", "{\"body\": \"12345678901\"}").await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);

    folder.write("[service]\nmax_length = \"many\"\nunknown = 1\n");
    let reload = running.reload().await;
    assert_kept(&reload, 78);
    let error = reload["error"].as_str().unwrap();
    assert!(error.contains("max_length") && error.contains("unknown"), "{error}");

    folder.write(&format!(
        "[secrets.aws]\nregions = [\"eu-west-1\", \"eu-west-2\"]\n[server]\nlisten = \"127.0.0.1:{}\"\n",
        free_port()
    ));
    assert_eq!(running.reload().await["outcome"], "published");
    let status = running.status().await;
    assert_eq!(status["needs_restart"], json!(["server.listen", "secrets.aws.regions"]));
    running.create_note("served at the old address").await;
}

#[tokio::test]
async fn a_reload_applies_new_settings_of_the_log_the_server_and_the_database() {
    let tenant = SERVICE.migrated("takes_up").await;
    let folder = ConfigurationFolder::new();
    let write = |database: &str| {
        folder.write(&format!(
            "[telemetry]\nfilter = \"info,sqlx=debug\"\n[server]\nlisten = \"127.0.0.1:0\"\nrequest_timeout = \"300ms\"\n\
             [secrets]\ndeadline = \"6s\"\n[database]\n{database}"
        ));
    };
    let port = tenant.database().port;
    let launch = folder.launch(&tenant).env_remove("APP_DATABASE__PORT");
    folder.write(&format!("[database]\nport = {port}\n"));
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    assert!(events_of_level(&running.process, "DEBUG").is_empty());

    write(&format!("port = {}\n", free_port()));
    assert_eq!(running.reload().await["exit_code"], 69, "the reload connects to the new port");
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);

    write(&format!("port = {port}\nmax_connections = 2\n"));
    assert_eq!(running.reload().await["outcome"], "published");
    let lock = TableLock::on(&tenant, "notes").await;
    let start = Instant::now();
    let requests: Vec<_> = (0..8).map(|_| begin_get(&running, &note)).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "the limit of a request is 300 ms now, and was 10 s");
    assert!(tenant.connections(&tenant.app_role()).await.unwrap() <= 2);
    lock.release().await;
    assert!(!events_of_level(&running.process, "DEBUG").is_empty(), "sqlx logs its statements");
}

/// The socket that a service notifies.
struct FakeSystemd {
    path: PathBuf,
    socket: UnixDatagram,
}

impl FakeSystemd {
    fn listen(tenant: &Tenant) -> Self {
        let path = std::env::temp_dir().join(format!("{}.sock", tenant.name()));
        let socket = UnixDatagram::bind(&path).expect("the socket");
        Self { path, socket }
    }

    async fn receive(&self) -> String {
        let mut buffer = [0; 1024];
        let read = timeout(DEFAULT_TIMEOUT, self.socket.recv(&mut buffer)).await.expect("a message").expect("a socket");
        String::from_utf8(buffer[..read].to_vec()).expect("text")
    }
}

impl Drop for FakeSystemd {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[tokio::test]
async fn systemd_is_notified_of_a_start_a_reload_and_the_stop() {
    let tenant = SERVICE.migrated("systemd").await;
    let systemd = FakeSystemd::listen(&tenant);
    let receive = || systemd.receive();
    let launch = SERVICE.launch(&tenant).env("NOTIFY_SOCKET", &systemd.path);
    let mut running = RunningService::start(launch, &tenant).await;
    assert_eq!(receive().await, "READY=1\n");
    running.process.signal(Signal::HUP);
    let reloading = receive().await;
    assert!(reloading.contains("RELOADING=1\n") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(receive().await, "READY=1\nSTATUS=nothing changed; generation 1 is in service\n");
    tenant.delete("signing").await.unwrap();
    running.process.signal(Signal::HUP);
    receive().await;
    assert_eq!(receive().await, "READY=1\nSTATUS=the last reload FAILED; generation 1 stays in service\n");
    running.process.signal(Signal::TERM);
    assert_eq!(receive().await, "STOPPING=1\n");
}

#[tokio::test]
async fn a_systemd_that_reads_nothing_holds_nothing_up() {
    let tenant = SERVICE.migrated("systemd_silent").await;
    let systemd = FakeSystemd::listen(&tenant);
    let others = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    others.set_nonblocking(true).expect("a socket");
    while others.send_to(b"X", &systemd.path).is_ok() {}
    let launch = SERVICE.launch(&tenant).env("NOTIFY_SOCKET", &systemd.path).env("WATCHDOG_USEC", "200000");
    let mut running = RunningService::start(launch, &tenant).await;
    assert_eq!(running.reload().await["outcome"], "unchanged");
    running.create_note("while systemd does not read").await;
    let (mut messages, mut is_alive) = (Vec::new(), false);
    let receive_all = async {
        while messages.len() < 3 || !is_alive {
            match systemd.receive().await.as_str() {
                "X" => (),
                "WATCHDOG=1\n" => is_alive = true,
                message => messages.push(message.to_owned()),
            }
        }
    };
    timeout(DEFAULT_TIMEOUT, receive_all).await.expect("each message, and a sign of life");
    assert_eq!(messages[0], "READY=1\n");
    assert!(messages[1].starts_with("RELOADING=1\n"), "{messages:?}");
    assert_eq!(messages[2], "READY=1\nSTATUS=nothing changed; generation 1 is in service\n");
    // Of the start, and of the first sign of life.
    let waiting = events_that_say(&running.process, "could not notify systemd; trying again");
    assert!((1..=5).contains(&waiting.len()), "{waiting:?}");
}

#[tokio::test]
async fn systemd_hears_again_and_again_that_the_service_runs_tasks() {
    let tenant = SERVICE.migrated("systemd_watchdog").await;
    let systemd = FakeSystemd::listen(&tenant);
    let launch = SERVICE.launch(&tenant).env("NOTIFY_SOCKET", &systemd.path).env("WATCHDOG_USEC", "200000");
    let _running = RunningService::start(launch, &tenant).await;
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        heard.insert(systemd.receive().await);
    }
    assert!(heard.iter().eq(["READY=1\n", "WATCHDOG=1\n"]), "{heard:?}");
    assert_eq!(systemd.receive().await, "WATCHDOG=1\n");
}
