//! Rotations in which the manager and the database change at different moments, and nobody sends a signal.

use crate::{DEFAULT_TIMEOUT, Notes, RunningService, migrated, reload::async_body, scripted, service};
use devstack::{
    FaultRule, Launch, Rotation, ScriptedFault, Signal, Tenant,
    reqwest::{Method, Response, StatusCode},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The service without a poll, so that only what a test does can set off a trip.
pub(crate) fn unpolled(tenant: &Tenant) -> Launch {
    service(tenant).env("APP_SECRETS__REFRESH_EVERY", "0s")
}

/// A rotation between its steps 2 and 3: the database refuses AWSCURRENT, and takes AWSPENDING.
pub(crate) async fn window(tenant: &Tenant) -> Rotation {
    let rotation = tenant.rotation("database");
    rotation.create_pending().await.expect("it is done");
    rotation.set().await.expect("it is done");
    rotation
}

/// Ends the service's connections, and waits until it looks at one before it uses it again.
pub(crate) async fn cut(tenant: &Tenant) {
    tenant.kill_connections(&tenant.app_role()).await.expect("it is done");
    tokio::time::sleep(Duration::from_millis(600)).await;
}

/// So many requests at once.
pub(crate) async fn at_once(running: &RunningService<'_>, path: &str, count: usize) -> Vec<Response> {
    let requests: Vec<_> = (0..count).map(|_| tokio::spawn(running.request(Method::GET, path).send())).collect();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await.expect("it is done").expect("an answer"));
    }
    answers
}

pub(crate) fn statuses(answers: &[Response]) -> BTreeMap<u16, usize> {
    answers.iter().fold(BTreeMap::new(), |mut counts, answer| {
        *counts.entry(answer.status().as_u16()).or_default() += 1;
        counts
    })
}

pub(crate) fn events(running: &RunningService<'_>, level: &str) -> Vec<Value> {
    running.process.events().into_iter().filter(|event| event["level"] == level).collect()
}

/// What the log says of versions that are refused.
pub(crate) fn refusals_told(running: &RunningService<'_>) -> Vec<Value> {
    let told =
        |event: &Value| event["fields"]["message"].as_str().is_some_and(|text| text.contains("refuses the login"));
    running.process.events().into_iter().filter(told).collect()
}

#[tokio::test]
async fn a_start_in_the_window_of_a_rotation_logs_in_with_the_pending_version() {
    let tenant = migrated("window_start").await;
    let rotation = window(&tenant).await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    running.create("a note").await;
    let held = running.credential("database").await;
    assert_eq!((held["stage"].as_str(), held["version"].as_str()), (Some("pending"), Some(rotation.version())));

    rotation.finish().await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged", "the same version under another label");
    assert_eq!(running.status().await["generation"], 1);
    let held = running.credential("database").await;
    assert_eq!((held["stage"].as_str(), held["version"].as_str()), (Some("current"), Some(rotation.version())));
}

#[tokio::test]
async fn requests_in_the_window_of_a_rotation_are_served_by_the_pending_version() {
    let tenant = migrated("window").await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    at_once(&running, &note, 20).await;
    let rotation = window(&tenant).await;
    cut(&tenant).await;
    let refused = tenant.rejected_logins(&tenant.app_role()).unwrap();
    assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
    let refused = tenant.rejected_logins(&tenant.app_role()).unwrap() - refused;
    assert!((1..=2).contains(&refused), "two logins run at a time, and {refused} were refused");
    let status = running.wait_until("the trip's report", |status| !status["last_reload"].is_null()).await;
    assert_eq!(status["last_reload"]["trigger"], "refused_login");
    assert_eq!(status["generation"], 2);
    assert_eq!(running.credential("database").await["stage"], "pending");

    rotation.finish().await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(running.status().await["generation"], 2);
    assert_eq!(running.credential("database").await["stage"], "current");
}

#[tokio::test]
async fn a_rotation_that_is_taken_back_in_its_window_fails_no_request() {
    let tenant = migrated("taken_back").await;
    let current: Value = serde_json::from_str(&tenant.value("database", "AWSCURRENT").await.unwrap()).unwrap();
    let rotation = window(&tenant).await;
    let running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    assert_eq!(running.credential("database").await["version"], rotation.version());
    tenant.set_password(&tenant.app_role(), current["password"].as_str().unwrap()).await.unwrap();
    cut(&tenant).await;
    assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
    let held = running.credential("database").await;
    assert_eq!(held["version"], tenant.version("database", "AWSCURRENT").await.unwrap().unwrap());
    assert_eq!(held["stage"], "current");
}

#[tokio::test]
async fn a_request_waits_for_a_manager_that_is_slow() {
    let tenant = migrated("waits").await;
    let manager = scripted(&tenant).await;
    let launch =
        unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()).env("APP_DATABASE__ACQUIRE_TIMEOUT", "9s");
    let running = RunningService::start(launch, &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate("database").await.unwrap();
    cut(&tenant).await;
    manager.script([FaultRule::all(ScriptedFault::Delay(Duration::from_millis(3500)))]);
    let start = Instant::now();
    let status = running.get(&note).await.status();
    assert_eq!(status, StatusCode::OK, "after {:?}: {}", start.elapsed(), tenant.redact(&running.process.output()));
}

#[tokio::test]
async fn a_rotation_that_nobody_announced_fails_no_request() {
    let tenant = migrated("unannounced").await;
    let running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    at_once(&running, &note, 20).await;
    let version = tenant.rotate("database").await.unwrap();
    cut(&tenant).await;
    assert_eq!(statuses(&at_once(&running, &note, 64).await), BTreeMap::from([(200, 64)]));
    assert_eq!(running.credential("database").await["version"], version);
    let status = running.wait_until("the trip's report", |status| !status["last_reload"].is_null()).await;
    assert_eq!((&status["generation"], &status["signals"]["seen"]), (&2.into(), &0.into()));
    assert_eq!(status["last_reload"]["trigger"], "refused_login");
    let told = refusals_told(&running);
    assert_eq!(told.len(), 1, "one event a version that is refused: {told:#?}");
    assert_eq!(events(&running, "ERROR").len(), 0);
}

#[tokio::test]
async fn a_database_that_changes_after_the_manager_fails_no_request() {
    let tenant = migrated("after").await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let next = devstack::random_password();
    let secret = serde_json::json!({ "username": tenant.app_role(), "password": next });
    let version = tenant.put("database", &secret.to_string()).await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 77);
    tenant.set_password(&tenant.app_role(), &next).await.unwrap();
    cut(&tenant).await;
    // The version in service is refused: news for the one that was refused before.
    assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
    assert_eq!(running.credential("database").await["version"], version);
}

#[tokio::test]
async fn an_older_version_that_is_current_again_is_a_rollback() {
    let tenant = migrated("rollback").await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let old = running.credential("signing").await["version"].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let new = tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let back = tenant.client().update_secret_version_stage().secret_id(tenant.id("signing"));
    let back = back.version_stage("AWSCURRENT").move_to_version_id(&old).remove_from_version_id(&new);
    back.send().await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "published");
    assert!(reload["duration_ms"].as_u64() >= Some(1000), "an older version is read twice: {reload}");
    assert_eq!(running.credential("signing").await["version"], old);
}

#[tokio::test]
async fn a_full_database_gives_one_place_to_the_proof() {
    let tenant = migrated("full").await;
    let launch = unpolled(&tenant).env("APP_DATABASE__MAX_CONNECTIONS", "3");
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create("a note").await;
    at_once(&running, &note, 20).await;
    assert_eq!(tenant.connections(&tenant.app_role()).await.unwrap(), 3);
    tenant.limit_connections(&tenant.app_role(), 3).await.unwrap();
    replace(&tenant).await;
    assert_eq!(running.reload().await["outcome"], "published");

    // The same while all are busy: the first that comes back makes room.
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE notes").execute(&mut admin).await.unwrap();
    let requests: Vec<_> = (0..3).map(|_| tokio::spawn(running.request(Method::GET, &note).send())).collect();
    let start = Instant::now();
    while tenant.connections(&tenant.app_role()).await.unwrap() < 3 {
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "the requests did not come");
    }
    replace(&tenant).await;
    running.process.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(running.status().await["generation"], 2);
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    running.wait_until("the rotation", |status| status["generation"] == 3).await;
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
}

#[tokio::test]
async fn users_that_alternate_are_taken_up() {
    let tenant = migrated("alternate").await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
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
    let tenant = migrated("outlives").await;
    let launch = unpolled(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "5min");
    let mut running = RunningService::start(launch, &tenant).await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = async_body("{\"body\": \"slow", wait, " and steady\"}");
    let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json").body(slow);
    let answer = tokio::spawn(post.send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    for generation in 2..=4 {
        tenant.rotate("database").await.unwrap();
        assert_eq!(running.reload().await["outcome"], "published");
        let draining = running.status().await["draining"].clone();
        assert_eq!((&draining[0]["generation"], draining.as_array().unwrap().len()), (&1.into(), 1), "{draining}");
        assert_eq!(running.status().await["generation"], generation);
    }
    let long_held = |line: &str| line.contains("still held a minute") && line.contains("\"generation\":1");
    running.process.wait_for_line(long_held, Duration::from_secs(90)).await;
    go.send(()).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::CREATED);
    running.wait_until("the end of draining", |status| status["draining"].as_array().unwrap().is_empty()).await;
}

/// A new password in the database and at the manager, without a login of its own.
pub(crate) async fn replace(tenant: &Tenant) {
    let next = devstack::random_password();
    tenant.set_password(&tenant.app_role(), &next).await.expect("it is done");
    let secret = serde_json::json!({ "username": tenant.app_role(), "password": next });
    tenant.put("database", &secret.to_string()).await.expect("it is done");
}
