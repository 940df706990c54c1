//! A login that is refused: how often it is tried, what is put in its place, and what is not.

use crate::{
    DEFAULT_TIMEOUT, Notes, RunningService, SHORT,
    config::Folder,
    migrated,
    rotation::{at_once, cut, events, refusals_told, replace, statuses, unpolled, window},
    scripted,
};
use devstack::{
    FaultRule, ScriptedFault,
    reqwest::{Method, StatusCode},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::TcpListener,
    time::{Duration, Instant},
};

#[tokio::test]
async fn a_wrong_secret_hammers_no_account() {
    let tenant = migrated("hammers").await;
    let running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    // Ten idle connections, each of which will turn out to be dead.
    at_once(&running, &note, 64).await;
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    cut(&tenant).await;
    for round in 0..2 {
        let start = Instant::now();
        let answers = at_once(&running, &note, 64).await;
        assert_eq!(statuses(&answers), BTreeMap::from([(503, 64)]), "in round {round}");
        assert!(answers.iter().all(|answer| answer.headers()["retry-after"] == "1"));
        assert!(start.elapsed() < Duration::from_millis(4500), "a request waits for 3 s");
    }
    let refused = tenant.rejected_logins(&tenant.app_role()).unwrap();
    assert!((1..=2).contains(&refused), "two logins run at a time, and {refused} were refused");
    let told = refusals_told(&running);
    assert_eq!(told.len(), 1, "one event a version that is refused: {told:#?}");
    let errors = events(&running, "ERROR");
    assert_eq!(errors.len(), 1, "one event for the trip, and none for its repetitions: {errors:#?}");
}

#[tokio::test]
async fn a_busy_pool_that_is_cut_off_hammers_no_account() {
    let tenant = migrated("busy_hammers").await;
    let running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE notes").execute(&mut admin).await.unwrap();
    let requests: Vec<_> = (0..64).map(|_| tokio::spawn(running.request(Method::GET, &note).send())).collect();
    let start = Instant::now();
    while tenant.connections(&tenant.app_role()).await.unwrap() < 10 {
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "the pool does not fill");
    }
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    tenant.kill_connections(&tenant.app_role()).await.unwrap();
    for request in requests {
        let status = request.await.unwrap().unwrap().status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    let refused = tenant.rejected_logins(&tenant.app_role()).unwrap();
    assert!((1..=2).contains(&refused), "two logins run at a time, and {refused} were refused");
}

#[tokio::test]
async fn open_connections_serve_on_while_the_login_is_refused() {
    let tenant = migrated("serve_on").await;
    let running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("opens a connection").await;
    let rotation = window(&tenant).await;
    // Nothing that could stand in.
    let elsewhere = serde_json::json!({ "username": tenant.app_role(), "password": "sentinel-other", "port": 1 });
    tenant.put_pending("database", &elsewhere.to_string()).await.unwrap();
    drop(rotation);
    for _ in 0..3 {
        assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
    }
    assert_eq!(running.status().await["generation"], 1);
    let refused = tenant.rejected_logins(&tenant.app_role()).unwrap();
    assert!((1..=2).contains(&refused), "two logins run at a time, and {refused} were refused");
}

#[tokio::test]
async fn signals_do_not_hammer_an_account_with_a_wrong_new_version() {
    let tenant = migrated("insist").await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let wrong = serde_json::json!({ "username": tenant.app_role(), "password": "sentinel-wrong" });
    tenant.put("database", &wrong.to_string()).await.unwrap();
    let before = running.status().await["credentials"][0]["verified"].clone();
    let before = (before, running.credential("signing").await["verified"].clone());
    for _ in 0..8 {
        let reload = running.reload().await;
        assert_eq!((reload["outcome"].as_str(), reload["exit_code"].as_i64()), (Some("kept"), Some(77)));
    }
    assert_eq!(tenant.rejected_logins(&tenant.app_role()).unwrap(), 3);
    assert_eq!(running.credential("database").await["stage"], "unlabelled");
    let after = (running.credential("database").await, running.credential("signing").await);
    assert_eq!(after.0["verified"], before.0, "the manager has another version");
    assert_ne!(after.1["verified"], before.1, "the manager confirmed it");
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    // What is refused is the version: the next one does not wait.
    replace(&tenant).await;
    assert_eq!(running.reload().await["exit_code"], 0, "by this trip, or by one that followed those before");
    let held = running.credential("database").await;
    assert_eq!(held["version"], tenant.version("database", "AWSCURRENT").await.unwrap().unwrap());
    assert_eq!(held["stage"], "current");
    assert_eq!(running.status().await["generation"], 2);
}

#[tokio::test]
async fn a_password_that_was_changed_back_is_tried_again_when_asked() {
    let tenant = migrated("changed_back").await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let held: Value = serde_json::from_str(&tenant.value("database", "AWSCURRENT").await.unwrap()).unwrap();
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(running.reload().await["exit_code"], 77, "it is refused still");
    let waiting = tokio::spawn(running.request(Method::GET, &note).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    tenant.set_password(&tenant.app_role(), held["password"].as_str().unwrap()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(tenant.rejected_logins(&tenant.app_role()).unwrap(), 2);
}

#[tokio::test]
async fn a_refused_login_heals_beside_a_malformed_credential() {
    let tenant = migrated("heals").await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let signing = running.credential("signing").await;
    let version = tenant.rotate("database").await.unwrap();
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    assert_eq!(running.credential("database").await["version"], version);
    let status = running.wait_until("the trip's report", |status| !status["last_reload"].is_null()).await;
    assert_eq!(status["last_reload"]["outcome"], "published");
    let carried = &status["last_reload"]["carried_over"];
    assert_eq!((&carried[0]["credential"], carried.as_array().unwrap().len()), (&"signing".into(), 1), "{status:#}");
    assert!(carried[0]["problem"].as_str().unwrap().contains("malformed"), "{carried}");
    let after = running.credential("signing").await;
    assert_eq!((&after["version"], &after["loaded"]), (&signing["version"], &signing["loaded"]));
    assert_eq!(after["stage"], "unlabelled");
    assert_eq!(after["verified"], signing["verified"]);

    // Where nothing is refused, the whole set is.
    let version = running.credential("database").await["version"].clone();
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 65);
    assert_eq!(running.credential("database").await["version"], version);
}

#[tokio::test]
async fn a_refused_login_heals_beside_a_credential_that_cannot_be_had() {
    let tenant = migrated("beside_silence").await;
    let manager = scripted(&tenant).await;
    let running = RunningService::start(unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate("database").await.unwrap();
    let signing = tenant.put("signing", &devstack::random_key()).await.unwrap();
    manager.script([FaultRule::on(tenant.id("signing"), ScriptedFault::BlackHole)]);
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    let status = running.wait_until("the trip's report", |status| !status["last_reload"].is_null()).await;
    assert_eq!(status["last_reload"]["carried_over"][0]["credential"], "signing");
    manager.clear();
    running.wait_until("the rest", |status| status["generation"] == 3).await;
    assert_eq!(running.credential("signing").await["version"], signing);
}

#[tokio::test]
async fn a_malformed_credential_does_not_end_the_search_for_a_login() {
    let tenant = migrated("search").await;
    let manager = scripted(&tenant).await;
    let launch = unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()).env("APP_SECRETS__DEADLINE", SHORT);
    let running = RunningService::start(launch, &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate("database").await.unwrap();
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Status(500, "InternalServiceError"))]);
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let status = running.wait_until("the trip's report", |status| !status["last_reload"].is_null()).await;
    let error = status["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("credential `database`") && error.contains("credential `signing`"), "{error}");
    manager.clear();
    running.wait_until("the rotation", |status| status["generation"] == 2).await;
}

#[tokio::test]
async fn a_refused_login_is_not_put_in_service_again_for_another_setting() {
    let tenant = migrated("setting").await;
    let folder = Folder::new();
    folder.write("[secrets]\nrefresh_every = \"0s\"\n");
    let mut running = RunningService::start(folder.launch(&tenant), &tenant).await;
    let note = running.create("a note").await;
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    folder.write("[secrets]\nrefresh_every = \"0s\"\n[service]\nmax_length = 10\n");
    assert_eq!(running.reload().await["exit_code"], 77);
    assert_eq!(running.status().await["generation"], 1);
    // The setting waits for the password.
    let pending =
        serde_json::json!({ "engine": "postgres", "username": tenant.app_role(), "password": "sentinel-elsewhere" });
    tenant.put_pending("database", &pending.to_string()).await.unwrap();
    let start = Instant::now();
    // With the old setting or the new one: whichever is tried again first. The new one follows.
    while running.post("{\"body\": \"12345678901\"}").await.status() != StatusCode::UNPROCESSABLE_ENTITY {
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "the setting is forgotten");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(running.credential("database").await["stage"], "pending");
}

#[tokio::test]
async fn a_version_that_may_read_nothing_is_not_put_in_service() {
    let tenant = migrated("reads_nothing").await;
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate_users("database").await.unwrap();
    let mut admin = tenant.admin().await.unwrap();
    let (access, user, name) = (tenant.access_role(), format!("{}_clone", tenant.app_role()), tenant.name());
    let revoke = format!("REVOKE {access} FROM {user}; GRANT CONNECT ON DATABASE {name} TO {user}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(revoke)).execute(&mut admin).await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 77);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_pending_version_for_another_user_or_place_is_never_contacted() {
    let tenant = migrated("elsewhere").await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let mut running = RunningService::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let good = devstack::random_password();
    tenant.set_password(&tenant.app_role(), &good).await.unwrap();
    let migrators: Value = serde_json::from_str(&tenant.value("migrator", "AWSCURRENT").await.unwrap()).unwrap();
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    for pending in [
        serde_json::json!({ "username": tenant.app_role(), "password": good, "host": "127.0.0.1", "port": port }),
        serde_json::json!({ "username": tenant.app_role(), "password": good, "port": port }),
        serde_json::json!({ "username": tenant.app_role(), "password": good, "dbname": "postgres" }),
        migrators,
        serde_json::json!("sentinel: not JSON, but no bare password beside JSON either"),
    ] {
        tenant.put_pending("database", &pending.to_string()).await.unwrap();
        assert_eq!(running.reload().await["exit_code"], 77);
    }
    assert_eq!(elsewhere.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody came");
    assert_eq!(tenant.connections(&tenant.migrator_role()).await.unwrap(), 0);
    assert_eq!(running.status().await["generation"], 1);

    // One that differs in the password alone is what all wait for.
    let pending = serde_json::json!({ "engine": "postgres", "username": tenant.app_role(), "password": good });
    tenant.put_pending("database", &pending.to_string()).await.unwrap();
    running.wait_until("the pending version", |status| status["generation"] == 2).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}
