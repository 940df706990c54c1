//! Rotations in which the manager and the database change at different moments, and nobody sends a signal.

use crate::{Running, config::Folder, migrated, reload::async_body, running::PATIENCE, scripted, service};
use devstack::{
    Launch, Rotation, Signal, Tenant,
    faults::{Fault, Rule},
    reqwest::{Method, Response, StatusCode},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::TcpListener,
    time::{Duration, Instant},
};

/// The service without a poll, so that only what a test does can set off a trip.
fn unpolled(tenant: &Tenant) -> Launch {
    service(tenant).env("APP_SECRETS__REFRESH_EVERY", "0s")
}

/// A rotation between its steps 2 and 3: the database refuses AWSCURRENT, and takes AWSPENDING.
async fn window(tenant: &Tenant) -> Rotation {
    let rotation = tenant.rotation("database");
    rotation.create_pending().await.expect("it is done");
    rotation.set().await.expect("it is done");
    rotation
}

/// Ends the service's connections, and waits until it looks at one before it uses it again.
async fn cut(tenant: &Tenant) {
    tenant.kill_connections(&tenant.app()).await.expect("it is done");
    tokio::time::sleep(Duration::from_millis(600)).await;
}

/// So many requests at once.
async fn at_once(running: &Running<'_>, path: &str, count: usize) -> Vec<Response> {
    let requests: Vec<_> = (0..count).map(|_| tokio::spawn(running.request(Method::GET, path).send())).collect();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await.expect("it is done").expect("an answer"));
    }
    answers
}

fn statuses(answers: &[Response]) -> BTreeMap<u16, usize> {
    answers.iter().fold(BTreeMap::new(), |mut counts, answer| {
        *counts.entry(answer.status().as_u16()).or_default() += 1;
        counts
    })
}

fn events(running: &Running<'_>, level: &str) -> Vec<Value> {
    running.process.events().into_iter().filter(|event| event["level"] == level).collect()
}

/// What the log says of versions that are refused.
fn refusals_told(running: &Running<'_>) -> Vec<Value> {
    let told =
        |event: &Value| event["fields"]["message"].as_str().is_some_and(|text| text.contains("refuses the login"));
    running.process.events().into_iter().filter(told).collect()
}

#[tokio::test]
async fn a_start_in_the_window_of_a_rotation_logs_in_with_the_pending_version() {
    let tenant = migrated("window_start").await;
    let rotation = window(&tenant).await;
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
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
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    at_once(&running, &note, 20).await;
    let rotation = window(&tenant).await;
    cut(&tenant).await;
    let refused = tenant.logins_refused(&tenant.app()).unwrap();
    assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
    let refused = tenant.logins_refused(&tenant.app()).unwrap() - refused;
    assert!((1..=2).contains(&refused), "two logins run at a time, and {refused} were refused");
    let status = running.until("the trip's report", |status| !status["last_reload"].is_null()).await;
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
    let running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    assert_eq!(running.credential("database").await["version"], rotation.version());
    tenant.set_password(&tenant.app(), current["password"].as_str().unwrap()).await.unwrap();
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
    let running = Running::start(launch, &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate("database").await.unwrap();
    cut(&tenant).await;
    manager.script([Rule::all(Fault::Delay(Duration::from_millis(3500)))]);
    let start = Instant::now();
    let status = running.get(&note).await.status();
    assert_eq!(status, StatusCode::OK, "after {:?}: {}", start.elapsed(), tenant.redact(&running.process.output()));
}

#[tokio::test]
async fn a_rotation_that_nobody_announced_fails_no_request() {
    let tenant = migrated("unannounced").await;
    let running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    at_once(&running, &note, 20).await;
    let version = tenant.rotate("database").await.unwrap();
    cut(&tenant).await;
    assert_eq!(statuses(&at_once(&running, &note, 64).await), BTreeMap::from([(200, 64)]));
    assert_eq!(running.credential("database").await["version"], version);
    let status = running.until("the trip's report", |status| !status["last_reload"].is_null()).await;
    assert_eq!((&status["generation"], &status["signals"]["seen"]), (&2.into(), &0.into()));
    assert_eq!(status["last_reload"]["trigger"], "refused_login");
    let told = refusals_told(&running);
    assert_eq!(told.len(), 1, "one event a version that is refused: {told:#?}");
    assert_eq!(events(&running, "ERROR").len(), 0);
}

#[tokio::test]
async fn a_wrong_secret_hammers_no_account() {
    let tenant = migrated("hammers").await;
    let running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    // Ten idle connections, each of which will turn out to be dead.
    at_once(&running, &note, 64).await;
    tenant.set_password(&tenant.app(), "sentinel-elsewhere").await.unwrap();
    cut(&tenant).await;
    for round in 0..2 {
        let start = Instant::now();
        let answers = at_once(&running, &note, 64).await;
        assert_eq!(statuses(&answers), BTreeMap::from([(503, 64)]), "in round {round}");
        assert!(answers.iter().all(|answer| answer.headers()["retry-after"] == "1"));
        assert!(start.elapsed() < Duration::from_millis(4500), "a request waits for 3 s");
    }
    let refused = tenant.logins_refused(&tenant.app()).unwrap();
    assert!((1..=2).contains(&refused), "two logins run at a time, and {refused} were refused");
    let told = refusals_told(&running);
    assert_eq!(told.len(), 1, "one event a version that is refused: {told:#?}");
    let errors = events(&running, "ERROR");
    assert_eq!(errors.len(), 1, "one event for the trip, and none for its repetitions: {errors:#?}");
}

#[tokio::test]
async fn a_busy_pool_that_is_cut_off_hammers_no_account() {
    let tenant = migrated("busy_hammers").await;
    let running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE notes").execute(&mut admin).await.unwrap();
    let requests: Vec<_> = (0..64).map(|_| tokio::spawn(running.request(Method::GET, &note).send())).collect();
    let start = Instant::now();
    while tenant.connections(&tenant.app()).await.unwrap() < 10 {
        assert!(start.elapsed() < PATIENCE, "the pool does not fill");
    }
    tenant.set_password(&tenant.app(), "sentinel-elsewhere").await.unwrap();
    tenant.kill_connections(&tenant.app()).await.unwrap();
    for request in requests {
        let status = request.await.unwrap().unwrap().status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    let refused = tenant.logins_refused(&tenant.app()).unwrap();
    assert!((1..=2).contains(&refused), "two logins run at a time, and {refused} were refused");
}

#[tokio::test]
async fn open_connections_serve_on_while_the_login_is_refused() {
    let tenant = migrated("serve_on").await;
    let running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("opens a connection").await;
    let rotation = window(&tenant).await;
    // Nothing that could stand in.
    let elsewhere = serde_json::json!({ "username": tenant.app(), "password": "sentinel-other", "port": 1 });
    tenant.put_pending("database", &elsewhere.to_string()).await.unwrap();
    drop(rotation);
    for _ in 0..3 {
        assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
    }
    assert_eq!(running.status().await["generation"], 1);
    let refused = tenant.logins_refused(&tenant.app()).unwrap();
    assert!((1..=2).contains(&refused), "two logins run at a time, and {refused} were refused");
}

#[tokio::test]
async fn signals_do_not_hammer_an_account_with_a_wrong_new_version() {
    let tenant = migrated("insist").await;
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let wrong = serde_json::json!({ "username": tenant.app(), "password": "sentinel-wrong" });
    tenant.put("database", &wrong.to_string()).await.unwrap();
    let before = running.status().await["credentials"][0]["verified"].clone();
    let before = (before, running.credential("signing").await["verified"].clone());
    for _ in 0..8 {
        let reload = running.reload().await;
        assert_eq!((reload["outcome"].as_str(), reload["exit_code"].as_i64()), (Some("kept"), Some(77)));
    }
    assert_eq!(tenant.logins_refused(&tenant.app()).unwrap(), 3);
    assert_eq!(running.credential("database").await["stage"], "unlabelled");
    let after = (running.credential("database").await, running.credential("signing").await);
    assert_eq!(after.0["verified"], before.0, "the manager has another version");
    assert_ne!(after.1["verified"], before.1, "the manager confirmed it");
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    // What is refused is the version: the next one does not wait.
    replace(&tenant).await;
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.credential("database").await["stage"], "current");
}

#[tokio::test]
async fn a_database_that_changes_after_the_manager_fails_no_request() {
    let tenant = migrated("after").await;
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let next = devstack::random_password();
    let secret = serde_json::json!({ "username": tenant.app(), "password": next });
    let version = tenant.put("database", &secret.to_string()).await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 77);
    tenant.set_password(&tenant.app(), &next).await.unwrap();
    cut(&tenant).await;
    // The version in service is refused: news for the one that was refused before.
    assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
    assert_eq!(running.credential("database").await["version"], version);
}

#[tokio::test]
async fn a_password_that_was_changed_back_is_tried_again_when_asked() {
    let tenant = migrated("changed_back").await;
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let held: Value = serde_json::from_str(&tenant.value("database", "AWSCURRENT").await.unwrap()).unwrap();
    tenant.set_password(&tenant.app(), "sentinel-elsewhere").await.unwrap();
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(running.reload().await["exit_code"], 77, "it is refused still");
    let waiting = tokio::spawn(running.request(Method::GET, &note).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    tenant.set_password(&tenant.app(), held["password"].as_str().unwrap()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(tenant.logins_refused(&tenant.app()).unwrap(), 2);
}

#[tokio::test]
async fn a_refused_login_heals_beside_a_malformed_credential() {
    let tenant = migrated("heals").await;
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let signing = running.credential("signing").await;
    let version = tenant.rotate("database").await.unwrap();
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    assert_eq!(running.credential("database").await["version"], version);
    let status = running.until("the trip's report", |status| !status["last_reload"].is_null()).await;
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
    let running = Running::start(unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate("database").await.unwrap();
    let signing = tenant.put("signing", &devstack::random_key()).await.unwrap();
    manager.script([Rule::on(tenant.id("signing"), Fault::BlackHole)]);
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    let status = running.until("the trip's report", |status| !status["last_reload"].is_null()).await;
    assert_eq!(status["last_reload"]["carried_over"][0]["credential"], "signing");
    manager.clear();
    running.until("the rest", |status| status["generation"] == 3).await;
    assert_eq!(running.credential("signing").await["version"], signing);
}

#[tokio::test]
async fn a_malformed_credential_does_not_end_the_search_for_a_login() {
    let tenant = migrated("search").await;
    let manager = scripted(&tenant).await;
    let launch = unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()).env("APP_SECRETS__DEADLINE", "1s");
    let running = Running::start(launch, &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate("database").await.unwrap();
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    manager.script([Rule::on(tenant.id("database"), Fault::Status(500, "InternalServiceError"))]);
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let status = running.until("the trip's report", |status| !status["last_reload"].is_null()).await;
    let error = status["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("credential `database`") && error.contains("credential `signing`"), "{error}");
    manager.clear();
    running.until("the rotation", |status| status["generation"] == 2).await;
}

#[tokio::test]
async fn a_refused_login_is_not_put_in_service_again_for_another_setting() {
    let tenant = migrated("setting").await;
    let folder = Folder::new();
    folder.write("[secrets]\nrefresh_every = \"0s\"\n");
    let mut running = Running::start(folder.launch(&tenant), &tenant).await;
    let note = running.create("a note").await;
    tenant.set_password(&tenant.app(), "sentinel-elsewhere").await.unwrap();
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    folder.write("[secrets]\nrefresh_every = \"0s\"\n[service]\nmax_length = 10\n");
    assert_eq!(running.reload().await["exit_code"], 77);
    assert_eq!(running.status().await["generation"], 1);
    // The setting waits for the password.
    let pending =
        serde_json::json!({ "engine": "postgres", "username": tenant.app(), "password": "sentinel-elsewhere" });
    tenant.put_pending("database", &pending.to_string()).await.unwrap();
    let start = Instant::now();
    // With the old setting or the new one: whichever is tried again first. The new one follows.
    while running.post("{\"body\": \"12345678901\"}").await.status() != StatusCode::UNPROCESSABLE_ENTITY {
        assert!(start.elapsed() < PATIENCE, "the setting is forgotten");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(running.credential("database").await["stage"], "pending");
}

#[tokio::test]
async fn a_version_that_may_read_nothing_is_not_put_in_service() {
    let tenant = migrated("reads_nothing").await;
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    tenant.rotate_users("database").await.unwrap();
    let mut admin = tenant.admin().await.unwrap();
    let (access, user, name) = (tenant.access_role(), format!("{}_clone", tenant.app()), tenant.name());
    let revoke = format!("REVOKE {access} FROM {user}; GRANT CONNECT ON DATABASE {name} TO {user}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(revoke)).execute(&mut admin).await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 77);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_older_version_that_is_current_again_is_a_rollback() {
    let tenant = migrated("rollback").await;
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
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
async fn a_pending_version_for_another_user_or_place_is_never_contacted() {
    let tenant = migrated("elsewhere").await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let good = devstack::random_password();
    tenant.set_password(&tenant.app(), &good).await.unwrap();
    let migrators: Value = serde_json::from_str(&tenant.value("migrator", "AWSCURRENT").await.unwrap()).unwrap();
    cut(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    for pending in [
        serde_json::json!({ "username": tenant.app(), "password": good, "host": "127.0.0.1", "port": port }),
        serde_json::json!({ "username": tenant.app(), "password": good, "port": port }),
        serde_json::json!({ "username": tenant.app(), "password": good, "dbname": "postgres" }),
        migrators,
        serde_json::json!("sentinel: not JSON, but no bare password beside JSON either"),
    ] {
        tenant.put_pending("database", &pending.to_string()).await.unwrap();
        assert_eq!(running.reload().await["exit_code"], 77);
    }
    assert_eq!(elsewhere.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody came");
    assert_eq!(tenant.connections(&tenant.migrator()).await.unwrap(), 0);
    assert_eq!(running.status().await["generation"], 1);

    // One that differs in the password alone is what all wait for.
    let pending = serde_json::json!({ "engine": "postgres", "username": tenant.app(), "password": good });
    tenant.put_pending("database", &pending.to_string()).await.unwrap();
    running.until("the pending version", |status| status["generation"] == 2).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_start_that_waited_for_a_label_tells_what_it_met_then() {
    let tenant = crate::tenant("label_schema").await;
    let good = tenant.value("database", "AWSCURRENT").await.unwrap();
    let wrong = serde_json::json!({ "username": tenant.app(), "password": "sentinel-wrong" });
    tenant.put("database", &wrong.to_string()).await.unwrap();
    let mut process = unpolled(&tenant).start();
    process.wait_for_line(|line| line.contains("a login is refused"), PATIENCE).await;
    tenant.put("database", &good).await.unwrap();
    let exited = process.exited(PATIENCE).await;
    assert_eq!(exited.code, Some(69), "{}", tenant.redact(&exited.stderr));
    assert!(exited.stderr.contains("migrate`"), "{}", tenant.redact(&exited.stderr));
}

#[tokio::test]
async fn a_full_database_gives_one_place_to_the_proof() {
    let tenant = migrated("full").await;
    let launch = unpolled(&tenant).env("APP_DATABASE__MAX_CONNECTIONS", "3");
    let mut running = Running::start(launch, &tenant).await;
    let note = running.create("a note").await;
    at_once(&running, &note, 20).await;
    assert_eq!(tenant.connections(&tenant.app()).await.unwrap(), 3);
    tenant.limit_connections(&tenant.app(), 3).await.unwrap();
    replace(&tenant).await;
    assert_eq!(running.reload().await["outcome"], "published");

    // The same while all are busy: the first that comes back makes room.
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE notes").execute(&mut admin).await.unwrap();
    let requests: Vec<_> = (0..3).map(|_| tokio::spawn(running.request(Method::GET, &note).send())).collect();
    let start = Instant::now();
    while tenant.connections(&tenant.app()).await.unwrap() < 3 {
        assert!(start.elapsed() < PATIENCE, "the requests did not come");
    }
    replace(&tenant).await;
    running.process.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(running.status().await["generation"], 2);
    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    running.until("the rotation", |status| status["generation"] == 3).await;
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(statuses(&at_once(&running, &note, 20).await), BTreeMap::from([(200, 20)]));
}

#[tokio::test]
async fn users_that_alternate_are_taken_up() {
    let tenant = migrated("alternate").await;
    let mut running = Running::start(unpolled(&tenant), &tenant).await;
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
async fn a_start_that_is_refused_waits_for_the_label_to_move() {
    let tenant = migrated("label").await;
    let good: Value = serde_json::from_str(&tenant.value("database", "AWSCURRENT").await.unwrap()).unwrap();
    let wrong = serde_json::json!({ "username": tenant.app(), "password": "sentinel-wrong" });
    tenant.put("database", &wrong.to_string()).await.unwrap();
    let mut process = unpolled(&tenant).start();
    process.wait_for_line(|line| line.contains("a login is refused"), PATIENCE).await;
    tenant.put("database", &good.to_string()).await.unwrap();
    process.listening().await;
    assert_eq!(tenant.logins_refused(&tenant.app()).unwrap(), 1);
}

#[tokio::test]
async fn a_manager_that_comes_back_is_asked_again_by_itself() {
    let tenant = migrated("comes_back").await;
    let manager = scripted(&tenant).await;
    let launch = unpolled(&tenant)
        .env("AWS_ENDPOINT_URL", manager.endpoint())
        .env("APP_SECRETS__DEADLINE", "1s")
        .env("APP_SECRETS__MAX_STALE", "2s");
    let mut running = Running::start(launch, &tenant).await;
    let note = running.create("a note").await;
    let version = tenant.rotate("database").await.unwrap();
    manager.script([Rule::all(Fault::Status(500, "InternalServiceError"))]);
    assert_eq!(running.reload().await["exit_code"], 69);
    tokio::time::sleep(Duration::from_millis(2300)).await;
    assert_eq!(running.admin("/readyz").await.1["status"], "degraded");
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    manager.clear();
    let status = running.until("the rotation", |status| status["generation"] == 2).await;
    assert_eq!(status["signals"]["seen"], 1);
    assert_eq!(running.credential("database").await["version"], version);
    assert_eq!(running.admin("/readyz").await.1["status"], "ready");
}

#[tokio::test]
async fn a_broken_file_does_not_end_what_heals_by_itself() {
    let tenant = migrated("broken_file").await;
    let manager = scripted(&tenant).await;
    let folder = Folder::new();
    folder.write("[secrets]\nrefresh_every = \"0s\"\ndeadline = \"1s\"\n");
    let launch = folder.launch(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint());
    let mut running = Running::start(launch, &tenant).await;
    tenant.rotate("database").await.unwrap();
    manager.script([Rule::all(Fault::Status(500, "InternalServiceError"))]);
    assert_eq!(running.reload().await["exit_code"], 69);
    folder.write("[secrets");
    assert_eq!(running.reload().await["exit_code"], 78);
    manager.clear();
    running.until("the rotation", |status| status["generation"] == 2).await;
}

#[tokio::test]
async fn a_configuration_that_came_with_a_signal_is_tried_until_the_manager_answers() {
    let tenant = migrated("wish").await;
    let manager = scripted(&tenant).await;
    let folder = Folder::new();
    folder.write("[secrets]\nrefresh_every = \"1s\"\ndeadline = \"1s\"\n");
    let launch = folder.launch(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint());
    let mut running = Running::start(launch, &tenant).await;
    tenant.put("another", &devstack::random_key()).await.unwrap();
    let another = tenant.id("another");
    manager.script([Rule::on(another.clone(), Fault::Status(500, "InternalServiceError"))]);
    folder.write(&format!(
        "[secrets]\nrefresh_every = \"1s\"\ndeadline = \"1s\"\n[secrets.ids]\nsigning = \"{another}\"\n"
    ));
    assert_eq!(running.reload().await["exit_code"], 69);
    // Polls go on with the configuration in service, and do not make the other one forgotten.
    running.until("a poll", |status| status["last_reload"]["trigger"] == "poll").await;
    folder.write("not even TOML");
    manager.clear();
    running.until("the new id", |status| status["generation"] == 2).await;
    assert_eq!(running.credential("signing").await["id"], another);
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_reload_wins() {
    let tenant = migrated("middle").await;
    let manager = scripted(&tenant).await;
    let mut running = Running::start(unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    manager.script([Rule::all(Fault::BlackHole)]);
    let asked = manager.requests(&tenant.id("database"));
    running.process.signal(Signal::HUP);
    let start = Instant::now();
    while manager.requests(&tenant.id("database")) == asked {
        assert!(start.elapsed() < PATIENCE, "there is no trip");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(PATIENCE).await.code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(3), "it waited for the manager");
}

#[tokio::test]
async fn nothing_is_published_while_stopping() {
    let tenant = migrated("not_published").await;
    let manager = scripted(&tenant).await;
    let mut running = Running::start(unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    running.create("opens a connection").await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let slow = tokio::spawn(slow.body(async_body("{\"body\": \"slow", wait, "\"}")).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    tenant.rotate("database").await.unwrap();
    manager.script([Rule::all(Fault::Delay(Duration::from_millis(800)))]);
    running.process.signal(Signal::HUP);
    running.until("the trip", |status| status["signals"]["covered"] == 1).await;
    running.process.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let status = running.status().await;
    assert_eq!((&status["generation"], &status["stopping"]), (&1.into(), &true.into()));
    go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::CREATED);
    assert_eq!(running.process.exited(PATIENCE).await.code, Some(0));
}

#[tokio::test]
async fn a_slow_request_outlives_three_rotations_and_the_log_names_its_generation() {
    let tenant = migrated("outlives").await;
    let launch = unpolled(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "5min");
    let mut running = Running::start(launch, &tenant).await;
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
    running.until("the end of draining", |status| status["draining"].as_array().unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_key_that_another_replica_holds_already_is_fetched() {
    let tenant = migrated("unknown_key").await;
    let manager = scripted(&tenant).await;
    let mut ahead = Running::start(unpolled(&tenant), &tenant).await;
    let behind = Running::start(unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    for text in ["one", "two"] {
        ahead.create(text).await;
    }
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(ahead.reload().await["outcome"], "published");
    let page: Value = ahead.get("/v1/notes?limit=1").await.json().await.unwrap();
    let next = format!("/v1/notes?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(behind.get(&next).await.status(), StatusCode::BAD_REQUEST);
    let status = behind.until("the key", |status| status["generation"] == 2).await;
    assert_eq!(status["signals"]["seen"], 0);
    assert_eq!(behind.get(&next).await.status(), StatusCode::OK);

    let asked = manager.requests(&tenant.id("signing"));
    for made_up in ["made-up.AAAA.AAAA", "other.AAAA.AAAA"] {
        assert_eq!(behind.get(&format!("/v1/notes?cursor={made_up}")).await.status(), StatusCode::BAD_REQUEST);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(manager.requests(&tenant.id("signing")), asked, "one trip in 30 s");
}

/// A new password in the database and at the manager, without a login of its own.
async fn replace(tenant: &Tenant) {
    let next = devstack::random_password();
    tenant.set_password(&tenant.app(), &next).await.expect("it is done");
    let secret = serde_json::json!({ "username": tenant.app(), "password": next });
    tenant.put("database", &secret.to_string()).await.expect("it is done");
}
