//! Rotations in which the manager and the database change at different moments, without a signal.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        database::{
            TableLock, cut_connections, open_rotation_window, replace_password, wait_for_blocked_statements,
            wait_for_connections,
        },
        launch_options::LaunchOptions,
        log_events::{events_of_level, events_that_say},
        reload_status::{wait_for_generation, wait_for_last_reload, wait_for_version, wait_until_drained},
        requests::{assert_statuses, begin_get, get_at_once},
        secrets::{current_password, current_version, login_with_password, scripted_manager},
        slow_request::SlowRequest,
        time_waits::{let_time_pass, stays},
    },
};
use devstack::{FaultRule, RunningService, ScriptedFault, Signal, reqwest::StatusCode};
use serde_json::Value;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_start_in_the_window_of_a_rotation_logs_in_with_the_pending_version() {
    let tenant = SERVICE.migrated("window_start").await;
    let rotation = open_rotation_window(&tenant).await;
    let mut running = SERVICE.start(&tenant).await;
    running.create_note("a note").await;
    let loaded = running.credential("database").await;
    assert_eq!((loaded["stage"].as_str(), loaded["version"].as_str()), (Some("pending"), Some(rotation.version())));

    rotation.finish().await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged", "the same version under another label");
    assert_eq!(running.status().await["generation"], 1);
    let loaded = running.credential("database").await;
    assert_eq!((loaded["stage"].as_str(), loaded["version"].as_str()), (Some("current"), Some(rotation.version())));
}

#[tokio::test]
async fn requests_in_the_window_of_a_rotation_are_served_by_the_pending_version() {
    let tenant = SERVICE.migrated("window").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    get_at_once(&running, &note, 20).await;
    let rotation = open_rotation_window(&tenant).await;
    cut_connections(&tenant).await;
    let before = tenant.rejected_logins(&tenant.app_role()).unwrap();
    assert_statuses(&get_at_once(&running, &note, 20).await, StatusCode::OK);
    let rejected = tenant.rejected_logins(&tenant.app_role()).unwrap() - before;
    assert!((1..=2).contains(&rejected), "two logins run at a time, and {rejected} were rejected");
    let status = wait_for_last_reload(&running).await;
    assert_eq!(status["last_reload"]["trigger"], "refused_login");
    assert_eq!(status["generation"], 2);
    assert_eq!(running.credential("database").await["stage"], "pending");

    rotation.finish().await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(running.status().await["generation"], 2);
    assert_eq!(running.credential("database").await["stage"], "current");
}

#[tokio::test]
async fn a_rotation_that_is_reverted_in_its_window_fails_no_request() {
    let tenant = SERVICE.migrated("taken_back").await;
    let current = current_password(&tenant).await;
    let rotation = open_rotation_window(&tenant).await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    assert_eq!(running.credential("database").await["version"], rotation.version());
    tenant.set_password(&tenant.app_role(), &current).await.unwrap();
    cut_connections(&tenant).await;
    assert_statuses(&get_at_once(&running, &note, 20).await, StatusCode::OK);
    wait_for_version(&running, "database", &current_version(&tenant, "database").await).await;
    assert_eq!(running.credential("database").await["stage"], "current");
}

#[tokio::test]
async fn a_request_waits_for_a_slow_manager() {
    let tenant = SERVICE.migrated("waits").await;
    let manager = scripted_manager(&tenant).await;
    let launch = SERVICE.launch(&tenant).with_manager(&manager).env("APP_DATABASE__ACQUIRE_TIMEOUT", "9s");
    let running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    tenant.rotate("database").await.unwrap();
    cut_connections(&tenant).await;
    manager.script([FaultRule::all(ScriptedFault::Delay(Duration::from_millis(3500)))]);
    let start = Instant::now();
    let status = running.get(&note).await.status();
    assert_eq!(status, StatusCode::OK, "after {:?}: {}", start.elapsed(), tenant.redact(&running.process.output()));
}

#[tokio::test]
async fn a_rotation_without_a_signal_fails_no_request() {
    let tenant = SERVICE.migrated("unannounced").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    get_at_once(&running, &note, 20).await;
    let version = tenant.rotate("database").await.unwrap();
    cut_connections(&tenant).await;
    assert_statuses(&get_at_once(&running, &note, 64).await, StatusCode::OK);
    wait_for_version(&running, "database", &version).await;
    let status = wait_for_last_reload(&running).await;
    assert_eq!((&status["generation"], &status["signals"]["seen"]), (&2.into(), &0.into()));
    assert_eq!(status["last_reload"]["trigger"], "refused_login");
    let events = events_that_say(&running.process, "rejects the login");
    assert_eq!(events.len(), 1, "one event per rejected version: {events:#?}");
    assert_eq!(events_of_level(&running.process, "ERROR").len(), 0);
}

#[tokio::test]
async fn a_password_that_changes_after_its_secret_fails_no_request() {
    let tenant = SERVICE.migrated("after").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let next = devstack::random_password();
    let login = login_with_password(&tenant, &next);
    let version = tenant.put("database", &login).await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 77);
    tenant.set_password(&tenant.app_role(), &next).await.unwrap();
    cut_connections(&tenant).await;
    // The version in service is rejected now, so the service tries the new one again at once.
    assert_statuses(&get_at_once(&running, &note, 20).await, StatusCode::OK);
    wait_for_version(&running, "database", &version).await;
}

#[tokio::test]
async fn an_older_version_that_becomes_current_again_is_loaded() {
    let tenant = SERVICE.migrated("rollback").await;
    let mut running = SERVICE.start(&tenant).await;
    let old = running.credential("signing").await["version"].as_str().unwrap().to_owned();
    let_time_pass("creation times at the emulator are whole seconds", Duration::from_millis(1100)).await;
    let new = tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let label = tenant.client().update_secret_version_stage().secret_id(tenant.id("signing"));
    let label = label.version_stage("AWSCURRENT").move_to_version_id(&old).remove_from_version_id(&new);
    label.send().await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "published");
    assert!(reload["duration_ms"].as_u64() >= Some(1000), "the service reads an older version twice: {reload}");
    assert_eq!(running.credential("signing").await["version"], old);
}

#[tokio::test]
async fn a_reload_can_log_in_although_the_database_accepts_no_more_connections() {
    let tenant = SERVICE.migrated("full").await;
    let launch = SERVICE.launch(&tenant).env("APP_DATABASE__MAX_CONNECTIONS", "3");
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    let lock = TableLock::on(&tenant, "notes").await;
    let requests: Vec<_> = (0..3).map(|_| begin_get(&running, &note)).collect();
    wait_for_connections(&tenant, 3).await;
    lock.release().await;
    for request in requests {
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
    }
    tenant.limit_connections(&tenant.app_role(), 3).await.unwrap();
    replace_password(&tenant).await;
    assert_eq!(running.reload().await["outcome"], "published");

    // While all connections are busy, the reload waits for the first one that is returned.
    let lock = TableLock::on(&tenant, "notes").await;
    let requests: Vec<_> = (0..3).map(|_| begin_get(&running, &note)).collect();
    wait_for_blocked_statements(&tenant, 3).await;
    replace_password(&tenant).await;
    running.process.signal(Signal::HUP);
    let is_second = async || running.status().await["generation"] == 2;
    stays("the second generation", Duration::from_millis(500), is_second).await;
    lock.release().await;
    wait_for_generation(&running, 3).await;
    for request in requests {
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
    }
    assert_statuses(&get_at_once(&running, &note, 20).await, StatusCode::OK);
}

#[tokio::test]
async fn a_reload_loads_a_login_of_another_user() {
    let tenant = SERVICE.migrated("alternate").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    for generation in 2..=4 {
        let version = tenant.rotate_users("database").await.unwrap();
        assert_eq!(running.reload().await["outcome"], "published");
        assert_eq!(running.status().await["generation"], generation);
        assert_eq!(running.credential("database").await["version"], version);
        assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_slow_request_outlives_three_rotations_and_the_log_names_its_generation() {
    let tenant = SERVICE.migrated("outlives").await;
    let launch = SERVICE.launch(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "5min");
    let mut running = RunningService::start(launch, &tenant).await;
    let slow = SlowRequest::start(&running).await;
    for generation in 2..=4 {
        tenant.rotate("database").await.unwrap();
        assert_eq!(running.reload().await["outcome"], "published");
        let is_first_alone = |status: &Value| {
            let draining = status["draining"].as_array().expect("a list");
            draining.len() == 1 && draining[0]["generation"] == 1
        };
        running.wait_until("the end of draining of all but the first", is_first_alone).await;
        assert_eq!(running.status().await["generation"], generation);
    }
    let is_held = |line: &str| line.contains("still held a minute") && line.contains("\"generation\":1");
    running.process.wait_for_line(is_held, Duration::from_secs(90)).await;
    assert_eq!(slow.finish().await, StatusCode::CREATED);
    wait_until_drained(&running).await;
}
