//! Rotation: the same road again.

use crate::{DEFAULT_TIMEOUT, Notes, RunningService, SHORT, config::Folder, free_port, migrated, scripted, service};
use aws_sdk_secretsmanager::primitives::Blob;
use devstack::{
    FaultRule, ScriptedFault, Signal, Tenant,
    reqwest::{Method, StatusCode},
};
use serde_json::Value;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_rotated_password_is_taken_up() {
    let tenant = migrated("rotated").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    let note = running.create("before").await;
    let (before, signing) = (running.credential("database").await, running.credential("signing").await);
    assert_eq!(before["version"], tenant.version("database", "AWSCURRENT").await.unwrap().unwrap());
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
    assert_eq!(running.credential("signing").await["loaded"], signing["loaded"], "it did not change");
}

#[tokio::test]
async fn two_generations_share_the_connections_that_are_allowed() {
    let tenant = migrated("allowed").await;
    let mut running = RunningService::start(service(&tenant).env("APP_DATABASE__MAX_CONNECTIONS", "3"), &tenant).await;
    let post = |running: &RunningService| {
        let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
        tokio::spawn(post.body("{\"body\": \"waits for the lock\"}").send())
    };
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE notes").execute(&mut admin).await.unwrap();
    let mut answers: Vec<_> = (0..3).map(|_| post(&running)).collect();
    let start = Instant::now();
    while tenant.connections(&tenant.app_role()).await.unwrap() < 3 {
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "the requests did not come");
    }
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    answers.extend((0..3).map(|_| post(&running)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(tenant.connections(&tenant.app_role()).await.unwrap(), 3);
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    for answer in answers {
        assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_signal_without_a_change_publishes_nothing() {
    let tenant = migrated("unchanged").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    running.create("a note").await;
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
async fn a_malformed_credential_among_good_ones_publishes_nothing() {
    let tenant = migrated("among").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let held = running.credential("database").await;
    tenant.rotate("database").await.unwrap();
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "kept");
    assert_eq!(reload["exit_code"], 65);
    assert!(reload["error"].as_str().unwrap().contains("credential `signing`"), "{reload}");
    assert_eq!(running.status().await["generation"], 1);
    assert_eq!(running.credential("database").await["version"], held["version"]);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    let errors: Vec<Value> = running.process.events().into_iter().filter(|event| event["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "one event: {errors:#?}");

    // The bad version is the previous one now, and only the current one must be good.
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
}

#[tokio::test]
async fn a_pending_version_without_a_use_holds_up_nothing() {
    let tenant = migrated("pending").await;
    let pending = || tenant.client().put_secret_value().secret_id(tenant.id("signing")).version_stages("AWSPENDING");
    pending().secret_binary(Blob::new(b"sentinel-\xff")).send().await.unwrap();
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    assert_eq!(running.reload().await["outcome"], "unchanged");
    pending().secret_string("no key").send().await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 0);
}

#[tokio::test]
async fn a_manager_that_is_away_costs_nothing() {
    let tenant = migrated("costs_nothing").await;
    let manager = scripted(&tenant).await;
    let launch = service(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()).env("APP_SECRETS__DEADLINE", SHORT);
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate("database").await.unwrap();
    for (fault, code) in [
        (ScriptedFault::Status(500, "InternalServiceError"), 69),
        (ScriptedFault::BlackHole, 75),
        (ScriptedFault::Status(400, "AccessDeniedException"), 77),
        (ScriptedFault::Status(400, "ResourceNotFoundException"), 66),
    ] {
        manager.script([FaultRule::all(fault)]);
        let reload = running.reload().await;
        assert_eq!((reload["outcome"].as_str(), reload["exit_code"].as_i64()), (Some("kept"), Some(code)));
        assert_eq!(running.get(&note).await.status(), StatusCode::OK);
        assert_eq!(running.admin("/readyz").await.0, StatusCode::OK);
    }
    manager.clear();
    assert_eq!(running.reload().await["exit_code"], 0, "by this trip, or by one that followed those before");
    assert_eq!(running.status().await["generation"], 2);
}

#[tokio::test]
async fn a_refused_login_in_a_reload_keeps_the_generation_in_service() {
    let tenant = migrated("kept").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let wrong = serde_json::json!({ "username": tenant.app_role(), "password": "sentinel-wrong" });
    tenant.put("database", &wrong.to_string()).await.unwrap();
    let reload = running.reload().await;
    assert_eq!((reload["outcome"].as_str(), reload["exit_code"].as_i64()), (Some("kept"), Some(77)));
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_finishes_on_the_generation_that_it_started_on() {
    let tenant = migrated("started_on").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    running.create("opens a connection").await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = async_body("{\"body\": \"slow", wait, " and steady\"}");
    let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json").body(slow);
    let answer = tokio::spawn(post.send());
    // The request is in flight once its generation is held twice: by the channel, and by it.
    tokio::time::sleep(Duration::from_millis(300)).await;

    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let draining = running.status().await["draining"].clone();
    assert_eq!(draining[0]["generation"], 1, "{draining}");
    assert!(draining[0]["reason"].as_str().unwrap().starts_with("1 in use"), "{draining}");

    // The idle connections of the old one close at once, though it is still held.
    assert!(no_more_than(0, &tenant).await, "the old pool stays open");

    go.send(()).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::CREATED);
    running.wait_until("the end of draining", |status| status["draining"].as_array().unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_busy_connection_of_an_old_generation_closes_when_it_comes_back() {
    let tenant = migrated("busy").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    // Another request holds the generation all the while.
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let slow = tokio::spawn(slow.body(async_body("{\"body\": \"slow", wait, "\"}")).send());
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE notes").execute(&mut admin).await.unwrap();
    let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let answer = tokio::spawn(post.body("{\"body\": \"waits for the lock\"}").send());
    let start = Instant::now();
    while tenant.connections(&tenant.app_role()).await.unwrap() == 0 {
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "the request did not come");
    }
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(tenant.connections(&tenant.app_role()).await.unwrap(), 1, "a busy connection lives on");
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::CREATED);
    assert!(no_more_than(0, &tenant).await, "it stays open");
    assert_eq!(running.status().await["draining"][0]["generation"], 1);
    go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::CREATED);
}

/// Whether the service soon has no more connections than these.
pub(crate) async fn no_more_than(most: usize, tenant: &Tenant) -> bool {
    let start = Instant::now();
    while tenant.connections(&tenant.app_role()).await.expect("a count") > most {
        if start.elapsed() > DEFAULT_TIMEOUT {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

pub(crate) fn async_body(
    first: &'static str,
    wait: tokio::sync::oneshot::Receiver<()>,
    last: &'static str,
) -> devstack::reqwest::Body {
    use futures_util::StreamExt;
    let start = futures_util::stream::iter([Ok::<_, std::io::Error>(first)]);
    let end = futures_util::stream::once(async move {
        let _ = wait.await;
        Ok(last)
    });
    devstack::reqwest::Body::wrap_stream(start.chain(end))
}

#[tokio::test]
async fn a_storm_of_signals_costs_few_trips() {
    let tenant = migrated("storm").await;
    let manager = scripted(&tenant).await;
    let mut running =
        RunningService::start(service(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    let before = manager.requests(&tenant.id("database"));
    for _ in 0..5000 {
        running.process.signal(Signal::HUP);
    }
    let covered = |status: &Value| {
        status["signals"]["seen"] == status["signals"]["last_reload"]["signals_covered"]
            && status["signals"]["seen"] != 0
    };
    running.wait_until("the last trip", covered).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let trips = manager.requests(&tenant.id("database")) - before;
    assert!((1..100).contains(&trips), "{trips} trips");
    assert_eq!(running.status().await["generation"], 1);
}

#[tokio::test]
async fn a_poll_takes_up_a_rotation_without_a_signal() {
    let tenant = migrated("poll").await;
    let running = RunningService::start(service(&tenant).env("APP_SECRETS__REFRESH_EVERY", "1s"), &tenant).await;
    tenant.rotate("database").await.unwrap();
    let status = running.wait_until("a poll", |status| status["generation"] == 2).await;
    assert_eq!(status["signals"]["seen"], 0);
    running.wait_until("its report", |status| status["last_reload"]["trigger"] == "poll").await;
}

#[tokio::test]
async fn credentials_that_go_unverified_are_told_and_heal() {
    let tenant = migrated("stale").await;
    let manager = scripted(&tenant).await;
    for (when_stale, code, word) in
        [("report", StatusCode::OK, "degraded"), ("unready", StatusCode::SERVICE_UNAVAILABLE, "unready")]
    {
        manager.clear();
        let launch = service(&tenant)
            .env("AWS_ENDPOINT_URL", manager.endpoint())
            .env("APP_SECRETS__REFRESH_EVERY", "0s")
            .env("APP_SECRETS__MAX_STALE", "4s")
            .env("APP_SECRETS__WHEN_STALE", when_stale);
        let mut running = RunningService::start(launch, &tenant).await;
        let (ready, body) = running.admin("/readyz").await;
        assert_eq!((ready, body["status"].as_str()), (StatusCode::OK, Some("ready")));
        // max_stale, and up to a tenth more.
        tokio::time::sleep(Duration::from_millis(4600)).await;
        let (stale, body) = running.admin("/readyz").await;
        assert_eq!((stale, body["status"].as_str()), (code, Some(word)));
        assert!(body["reasons"].to_string().contains("max_stale"), "{body}");
        running.reload().await;
        assert_eq!(running.admin("/readyz").await.1["status"], "ready");
    }
}

#[tokio::test]
async fn a_reload_reads_the_configuration_again() {
    let tenant = migrated("reread").await;
    let folder = Folder::new();
    let mut running = RunningService::start(folder.launch(&tenant), &tenant).await;
    running.create("12345678901").await;

    folder.write("[service]\nmax_length = 10\n");
    assert_eq!(running.reload().await["outcome"], "published");
    let answer = running.post("{\"body\": \"12345678901\"}").await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);

    folder.write("[service]\nmax_length = \"many\"\nunknown = 1\n");
    let reload = running.reload().await;
    assert_eq!((reload["outcome"].as_str(), reload["exit_code"].as_i64()), (Some("kept"), Some(78)));
    let error = reload["error"].as_str().unwrap();
    assert!(error.contains("max_length") && error.contains("unknown"), "{error}");

    folder.write(&format!(
        "[secrets.aws]\nregions = [\"eu-west-1\", \"eu-west-2\"]\n[server]\nlisten = \"127.0.0.1:{}\"\n",
        free_port()
    ));
    assert_eq!(running.reload().await["outcome"], "published");
    let status = running.status().await;
    assert_eq!(status["needs_restart"], serde_json::json!(["server.listen", "secrets.aws"]));
    running.create("served where it was").await;
}

#[tokio::test]
async fn a_reload_takes_up_filter_timeouts_and_the_database() {
    let tenant = migrated("takes_up").await;
    let folder = Folder::new();
    let write = |database: &str| {
        folder.write(&format!(
            "[telemetry]\nfilter = \"info,sqlx=debug\"\n[server]\nlisten = \"127.0.0.1:0\"\nrequest_timeout = \"300ms\"\n\
             [secrets]\ndeadline = \"3s\"\n[database]\n{database}"
        ));
    };
    let port = tenant.database().port;
    let launch = folder.launch(&tenant).env_remove("APP_DATABASE__PORT");
    folder.write(&format!("[database]\nport = {port}\n"));
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create("a note").await;
    let debug = |running: &RunningService| running.process.events().iter().any(|event| event["level"] == "DEBUG");
    assert!(!debug(&running));

    write(&format!("port = {}\n", free_port()));
    assert_eq!(running.reload().await["exit_code"], 69, "the database is looked for at the new port");
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);

    write(&format!("port = {port}\nmax_connections = 2\n"));
    assert_eq!(running.reload().await["outcome"], "published");
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE notes").execute(&mut admin).await.unwrap();
    let start = Instant::now();
    let requests: Vec<_> = (0..8).map(|_| tokio::spawn(running.request(Method::GET, &note).send())).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "a request may take 300 ms, and no longer 10 s");
    assert!(tenant.connections(&tenant.app_role()).await.unwrap() <= 2);
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    assert!(debug(&running), "sqlx tells of its statements");
}

#[tokio::test]
async fn systemd_is_told_of_a_start_a_reload_and_the_stop() {
    let tenant = migrated("systemd").await;
    let path = std::env::temp_dir().join(format!("{}.sock", tenant.name()));
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let hear = async || {
        let mut buffer = [0; 1024];
        let read = tokio::time::timeout(DEFAULT_TIMEOUT, socket.recv(&mut buffer)).await.expect("a message").unwrap();
        String::from_utf8(buffer[..read].to_vec()).unwrap()
    };
    let mut running = RunningService::start(service(&tenant).env("NOTIFY_SOCKET", &path), &tenant).await;
    assert_eq!(hear().await, "READY=1\n");
    running.process.signal(Signal::HUP);
    let reloading = hear().await;
    assert!(reloading.contains("RELOADING=1\n") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(hear().await, "READY=1\nSTATUS=nothing changed; generation 1 is in service\n");
    tenant.delete("signing").await.unwrap();
    running.process.signal(Signal::HUP);
    hear().await;
    assert_eq!(hear().await, "READY=1\nSTATUS=the last reload FAILED; generation 1 stays in service\n");
    running.process.signal(Signal::TERM);
    assert_eq!(hear().await, "STOPPING=1\n");
    let _ = std::fs::remove_file(path);
}
