//! What is tried again without being asked, and what ends that.

use crate::{
    DEFAULT_TIMEOUT, Notes, RunningService, SHORT, config::Folder, migrated, reload::async_body, rotation::unpolled,
    scripted,
};
use devstack::{
    FaultRule, ScriptedFault, Signal,
    reqwest::{Method, StatusCode},
};
use serde_json::Value;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_start_that_waited_for_a_label_tells_what_it_met_then() {
    let tenant = crate::tenant("label_schema").await;
    let good = tenant.value("database", "AWSCURRENT").await.unwrap();
    let wrong = serde_json::json!({ "username": tenant.app_role(), "password": "sentinel-wrong" });
    tenant.put("database", &wrong.to_string()).await.unwrap();
    let mut process = unpolled(&tenant).start();
    process.wait_for_line(|line| line.contains("a login is refused"), DEFAULT_TIMEOUT).await;
    tenant.put("database", &good).await.unwrap();
    let exited = process.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(69), "{}", tenant.redact(&exited.stderr));
    assert!(exited.stderr.contains("migrate`"), "{}", tenant.redact(&exited.stderr));
}

#[tokio::test]
async fn a_start_that_is_refused_waits_for_the_label_to_move() {
    let tenant = migrated("label").await;
    let good: Value = serde_json::from_str(&tenant.value("database", "AWSCURRENT").await.unwrap()).unwrap();
    let wrong = serde_json::json!({ "username": tenant.app_role(), "password": "sentinel-wrong" });
    tenant.put("database", &wrong.to_string()).await.unwrap();
    let mut process = unpolled(&tenant).start();
    process.wait_for_line(|line| line.contains("a login is refused"), DEFAULT_TIMEOUT).await;
    tenant.put("database", &good.to_string()).await.unwrap();
    process.listening().await;
    assert_eq!(tenant.rejected_logins(&tenant.app_role()).unwrap(), 1);
}

#[tokio::test]
async fn a_manager_that_comes_back_is_asked_again_by_itself() {
    let tenant = migrated("comes_back").await;
    let manager = scripted(&tenant).await;
    let launch = unpolled(&tenant)
        .env("AWS_ENDPOINT_URL", manager.endpoint())
        .env("APP_SECRETS__DEADLINE", SHORT)
        .env("APP_SECRETS__MAX_STALE", "2s");
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create("a note").await;
    let version = tenant.rotate("database").await.unwrap();
    manager.script([FaultRule::all(ScriptedFault::Status(500, "InternalServiceError"))]);
    assert_eq!(running.reload().await["exit_code"], 69);
    tokio::time::sleep(Duration::from_millis(2300)).await;
    assert_eq!(running.admin("/readyz").await.1["status"], "degraded");
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    manager.clear();
    let status = running.wait_until("the rotation", |status| status["generation"] == 2).await;
    assert_eq!(status["signals"]["seen"], 1);
    assert_eq!(running.credential("database").await["version"], version);
    assert_eq!(running.admin("/readyz").await.1["status"], "ready");
}

#[tokio::test]
async fn a_broken_file_does_not_end_what_heals_by_itself() {
    let tenant = migrated("broken_file").await;
    let manager = scripted(&tenant).await;
    let folder = Folder::new();
    folder.write("[secrets]\nrefresh_every = \"0s\"\ndeadline = \"3s\"\n");
    let launch = folder.launch(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint());
    let mut running = RunningService::start(launch, &tenant).await;
    tenant.rotate("database").await.unwrap();
    manager.script([FaultRule::all(ScriptedFault::Status(500, "InternalServiceError"))]);
    assert_eq!(running.reload().await["exit_code"], 69);
    folder.write("[secrets");
    assert_eq!(running.reload().await["exit_code"], 78);
    manager.clear();
    running.wait_until("the rotation", |status| status["generation"] == 2).await;
}

#[tokio::test]
async fn a_configuration_that_came_with_a_signal_is_tried_until_the_manager_answers() {
    let tenant = migrated("wish").await;
    let manager = scripted(&tenant).await;
    let folder = Folder::new();
    folder.write("[secrets]\nrefresh_every = \"1s\"\ndeadline = \"3s\"\n");
    let launch = folder.launch(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint());
    let mut running = RunningService::start(launch, &tenant).await;
    tenant.put("another", &devstack::random_key()).await.unwrap();
    let another = tenant.id("another");
    manager.script([FaultRule::on(another.clone(), ScriptedFault::Status(500, "InternalServiceError"))]);
    folder.write(&format!(
        "[secrets]\nrefresh_every = \"1s\"\ndeadline = \"3s\"\n[secrets.ids]\nsigning = \"{another}\"\n"
    ));
    assert_eq!(running.reload().await["exit_code"], 69);
    // Polls go on with the configuration in service, and do not make the other one forgotten.
    running.wait_until("a poll", |status| status["last_reload"]["trigger"] == "poll").await;
    folder.write("not even TOML");
    manager.clear();
    running.wait_until("the new id", |status| status["generation"] == 2).await;
    assert_eq!(running.credential("signing").await["id"], another);
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_reload_wins() {
    let tenant = migrated("middle").await;
    let manager = scripted(&tenant).await;
    let mut running =
        RunningService::start(unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    let asked = manager.requests(&tenant.id("database"));
    running.process.signal(Signal::HUP);
    let start = Instant::now();
    while manager.requests(&tenant.id("database")) == asked {
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "there is no trip");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(3), "it waited for the manager");
}

#[tokio::test]
async fn nothing_is_published_while_stopping() {
    let tenant = migrated("not_published").await;
    let manager = scripted(&tenant).await;
    let mut running =
        RunningService::start(unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    running.create("opens a connection").await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let slow = tokio::spawn(slow.body(async_body("{\"body\": \"slow", wait, "\"}")).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    tenant.rotate("database").await.unwrap();
    manager.script([FaultRule::all(ScriptedFault::Delay(Duration::from_millis(800)))]);
    running.process.signal(Signal::HUP);
    running.wait_until("the trip", |status| status["signals"]["covered"] == 1).await;
    running.process.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let status = running.status().await;
    assert_eq!((&status["generation"], &status["stopping"]), (&1.into(), &true.into()));
    go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::CREATED);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
}

#[tokio::test]
async fn a_key_that_another_replica_holds_already_is_fetched() {
    let tenant = migrated("unknown_key").await;
    let manager = scripted(&tenant).await;
    let mut ahead = RunningService::start(unpolled(&tenant), &tenant).await;
    let behind = RunningService::start(unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    for text in ["one", "two"] {
        ahead.create(text).await;
    }
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(ahead.reload().await["outcome"], "published");
    let page: Value = ahead.get("/v1/notes?limit=1").await.json().await.unwrap();
    let next = format!("/v1/notes?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(behind.get(&next).await.status(), StatusCode::BAD_REQUEST);
    let status = behind.wait_until("the key", |status| status["generation"] == 2).await;
    assert_eq!(status["signals"]["seen"], 0);
    assert_eq!(behind.get(&next).await.status(), StatusCode::OK);

    let asked = manager.requests(&tenant.id("signing"));
    for made_up in ["made-up.AAAA.AAAA", "other.AAAA.AAAA"] {
        assert_eq!(behind.get(&format!("/v1/notes?cursor={made_up}")).await.status(), StatusCode::BAD_REQUEST);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(manager.requests(&tenant.id("signing")), asked, "one trip in 30 s");
}
