//! A login that the database rejects: how often it is tried, and which version replaces it.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder,
        database::{
            TableLock, assert_few_rejected_logins, cut_connections, open_rotation_window, replace_password,
            wait_for_connections,
        },
        launch_options::LaunchOptions,
        log_events::{events_of_level, events_that_say},
        reload_status::{assert_kept, wait_for_generation, wait_for_last_reload, wait_for_version},
        requests::{assert_statuses, begin_get, get_at_once},
        secrets::{current_password, current_version, login_with_password, scripted_manager},
    },
};
use devstack::{FaultRule, RunningService, ScriptedFault, eventually, reqwest::StatusCode};
use serde_json::{Value, json};
use std::{
    io::ErrorKind,
    net::TcpListener,
    time::{Duration, Instant},
};

#[tokio::test]
async fn a_wrong_password_causes_few_rejected_logins() {
    let tenant = SERVICE.migrated("hammers").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    // Ten idle connections, which will all be found dead.
    get_at_once(&running, &note, 64).await;
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    cut_connections(&tenant).await;
    // A rotation may be under way, so the first requests wait for it. They last as long as `database.acquire_timeout`.
    for longest in [9, 4] {
        let start = Instant::now();
        let answers = get_at_once(&running, &note, 64).await;
        assert_statuses(&answers, StatusCode::SERVICE_UNAVAILABLE);
        for answer in &answers {
            let retry_after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..=16).contains(&retry_after), "the pause is 15 s, and not {retry_after} s");
        }
        assert!(start.elapsed() < Duration::from_secs(longest), "later requests fail at once");
    }
    assert_few_rejected_logins(&tenant);
    let events = events_that_say(&running.process, "rejects the login");
    assert_eq!(events.len(), 1, "one event per rejected version: {events:#?}");
    let errors = events_of_level(&running.process, "ERROR");
    assert_eq!(errors.len(), 1, "one event for the reload, and none for its retries: {errors:#?}");
}

#[tokio::test]
async fn a_busy_pool_without_connections_causes_few_rejected_logins() {
    let tenant = SERVICE.migrated("busy_hammers").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let lock = TableLock::on(&tenant, "notes").await;
    let requests: Vec<_> = (0..64).map(|_| begin_get(&running, &note)).collect();
    wait_for_connections(&tenant, 10).await;
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    tenant.kill_connections(&tenant.app_role()).await.unwrap();
    for request in requests {
        let status = request.await.unwrap().status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    lock.release().await;
    assert_few_rejected_logins(&tenant);
}

#[tokio::test]
async fn open_connections_serve_requests_while_the_login_is_rejected() {
    let tenant = SERVICE.migrated("serve_on").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("opens a connection").await;
    let rotation = open_rotation_window(&tenant).await;
    // A pending version that cannot replace the current one: it is for another port.
    let elsewhere = json!({ "username": tenant.app_role(), "password": "sentinel-other", "port": 1 });
    tenant.put_pending("database", &elsewhere.to_string()).await.unwrap();
    drop(rotation);
    for _ in 0..3 {
        assert_statuses(&get_at_once(&running, &note, 20).await, StatusCode::OK);
    }
    assert_eq!(running.status().await["generation"], 1);
    assert_few_rejected_logins(&tenant);
}

#[tokio::test]
async fn signals_try_a_rejected_new_version_only_three_times() {
    let tenant = SERVICE.migrated("insist").await;
    let launch = SERVICE.launch(&tenant).env("APP_SECRETS__PROBE_EVERY", "1min");
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    let wrong = login_with_password(&tenant, "sentinel-wrong");
    tenant.put("database", &wrong).await.unwrap();
    let database_before = running.status().await["credentials"][0].clone();
    let signing_before = running.credential("signing").await;
    for _ in 0..8 {
        let reload = running.reload().await;
        assert_kept(&reload, 77);
    }
    assert_eq!(tenant.rejected_logins(&tenant.app_role()).unwrap(), 3);
    let database = running.credential("database").await;
    assert_eq!(database["stage"], "unlabelled");
    assert_eq!(database["verified"], database_before["verified"], "the manager has another current version");
    let signing = running.credential("signing").await;
    assert_ne!(signing["verified"], signing_before["verified"], "the manager has confirmed this version");
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    // Only the rejected version must wait. The next version is tried at once.
    replace_password(&tenant).await;
    assert_eq!(running.reload().await["exit_code"], 0, "this reload publishes, or a retry of the one before did");
    let loaded = running.credential("database").await;
    assert_eq!(loaded["version"], current_version(&tenant, "database").await);
    assert_eq!(loaded["stage"], "current");
    assert_eq!(running.status().await["generation"], 2);
}

#[tokio::test]
async fn a_signal_tries_a_rejected_version_again_after_its_password_is_restored() {
    let tenant = SERVICE.migrated("changed_back").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let password = current_password(&tenant).await;
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(running.reload().await["exit_code"], 77, "the database still rejects the login");
    let rejected = "vestibule_credential_rejected{name=\"database\"}";
    assert_eq!(running.metric(rejected).await, 1.0);
    tenant.set_password(&tenant.app_role(), &password).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(running.metric(rejected).await, 0.0);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    assert_eq!(tenant.rejected_logins(&tenant.app_role()).unwrap(), 2);
}

#[tokio::test]
async fn a_rejected_login_is_replaced_although_another_credential_is_malformed() {
    let tenant = SERVICE.migrated("heals").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let signing = running.credential("signing").await;
    let version = tenant.rotate("database").await.unwrap();
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    wait_for_version(&running, "database", &version).await;
    let status = wait_for_last_reload(&running).await;
    assert_eq!(status["last_reload"]["outcome"], "published");
    let carried = &status["last_reload"]["carried_over"];
    assert_eq!((&carried[0]["credential"], carried.as_array().unwrap().len()), (&"signing".into(), 1), "{status:#}");
    assert!(carried[0]["problem"].as_str().unwrap().contains("malformed"), "{carried}");
    let after = running.credential("signing").await;
    assert_eq!((&after["version"], &after["loaded"]), (&signing["version"], &signing["loaded"]));
    assert_eq!(after["stage"], "unlabelled");
    assert_eq!(after["verified"], signing["verified"]);

    // If no login is rejected, the malformed credential fails the whole reload.
    let version = running.credential("database").await["version"].clone();
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 65);
    assert_eq!(running.credential("database").await["version"], version);
}

#[tokio::test]
async fn a_rejected_login_is_replaced_although_another_credential_cannot_be_fetched() {
    let tenant = SERVICE.migrated("beside_silence").await;
    let manager = scripted_manager(&tenant).await;
    let running = RunningService::start(
        SERVICE.launch(&tenant).with_manager(&manager).env("APP_DATABASE__ACQUIRE_TIMEOUT", "9s"),
        &tenant,
    )
    .await;
    let note = running.create_note("a note").await;
    tenant.rotate("database").await.unwrap();
    let signing = tenant.put("signing", &devstack::random_key()).await.unwrap();
    manager.script([FaultRule::on(tenant.id("signing"), ScriptedFault::BlackHole)]);
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    let status = wait_for_last_reload(&running).await;
    assert_eq!(status["last_reload"]["carried_over"][0]["credential"], "signing");
    manager.clear();
    wait_for_generation(&running, 3).await;
    assert_eq!(running.credential("signing").await["version"], signing);
}

#[tokio::test]
async fn retries_ask_the_manager_only_for_the_rejected_login() {
    let tenant = SERVICE.migrated("asks_for_one").await;
    let manager = scripted_manager(&tenant).await;
    let running = RunningService::start(SERVICE.launch(&tenant).with_manager(&manager), &tenant).await;
    let note = running.create_note("a note").await;
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    cut_connections(&tenant).await;
    let waiting = begin_get(&running, &note);
    let calls = |credential: &str| manager.requests(&tenant.id(credential));
    // The reload that follows a rejection asks for everything, and each rejected probe is followed by one.
    let are_left_alone = async || {
        let (before, signing) = (running.credential("signing").await, calls("signing"));
        let database = calls("database");
        eventually("three looks for a successor", async || calls("database") >= database + 6).await;
        let after = running.credential("signing").await;
        calls("signing") == signing && after["verified"] == before["verified"]
    };
    eventually("looks that leave the signing keys alone", are_left_alone).await;
    let version = tenant.put("database", &login_with_password(&tenant, "sentinel-elsewhere")).await.unwrap();
    wait_for_version(&running, "database", &version).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    waiting.await.expect("the first request is answered, too late or not");
}

#[tokio::test]
async fn a_malformed_credential_does_not_end_the_retries_for_a_rejected_login() {
    let tenant = SERVICE.migrated("search").await;
    let manager = scripted_manager(&tenant).await;
    let launch = SERVICE.launch(&tenant).with_manager(&manager).with_short_deadline();
    let running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    tenant.rotate("database").await.unwrap();
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Status(500, "InternalServiceError"))]);
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let status = wait_for_last_reload(&running).await;
    let error = status["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("credential `database`") && error.contains("credential `signing`"), "{error}");
    manager.clear();
    wait_for_generation(&running, 2).await;
}

#[tokio::test]
async fn a_rejected_login_does_not_hold_up_a_new_setting_or_key() {
    let tenant = SERVICE.migrated("setting").await;
    let folder = ConfigurationFolder::new();
    folder.write("");
    let mut running = RunningService::start(folder.launch(&tenant), &tenant).await;
    let note = running.create_note("a note").await;
    tenant.set_password(&tenant.app_role(), "sentinel-elsewhere").await.unwrap();
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let key = tenant.put("signing", &devstack::random_key()).await.unwrap();
    folder.write("[service]\nmax_length = 10\n");
    let reload = running.reload().await;
    assert_eq!((&reload["outcome"], &reload["exit_code"]), (&json!("published"), &json!(77)), "{reload:#}");
    assert_eq!(reload["carried_over"][0]["credential"], "database", "{reload:#}");
    assert_eq!(running.credential("signing").await["version"], key);
    let too_long = running.post_json("/v1/notes", "{\"body\": \"12345678901\"}").await;
    assert_eq!(too_long.status(), StatusCode::UNPROCESSABLE_ENTITY);
    // The rejected login goes on being rejected until there is another one.
    let pending = json!({ "engine": "postgres", "username": tenant.app_role(), "password": "sentinel-elsewhere" });
    tenant.put_pending("database", &pending.to_string()).await.unwrap();
    let is_served = async || running.get(&note).await.status() == StatusCode::OK;
    eventually("the pending login", is_served).await;
    // The status names it a moment after the first answer.
    let is_pending = async || running.credential("database").await["stage"] == "pending";
    eventually("the pending version in the status", is_pending).await;
}

#[tokio::test]
async fn a_wrong_password_at_the_manager_does_not_keep_a_revoked_key_in_use() {
    let (tenant, folder) = (SERVICE.migrated("leaked_beside").await, ConfigurationFolder::new());
    folder.write("");
    let mut running = RunningService::start(folder.launch(&tenant), &tenant).await;
    let note = running.create_note("a note").await;
    let login = running.credential("database").await["version"].clone();
    let leaked = running.credential("signing").await["version"].as_str().unwrap().to_owned();
    tenant.put("database", &login_with_password(&tenant, "sentinel-never-set")).await.unwrap();
    let key = tenant.put("signing", &devstack::random_key()).await.unwrap();
    folder.write(&format!("[secrets]\nrevoked = [\"{leaked}\"]\n"));
    let reload = running.reload().await;
    assert_eq!((&reload["outcome"], &reload["exit_code"]), (&json!("published"), &json!(0)), "{reload:#}");
    assert_eq!(reload["carried_over"][0]["credential"], "database", "{reload:#}");
    let signing = running.credential("signing").await;
    assert_eq!(signing["version"], key);
    assert!(signing["others"].is_null(), "{signing}");
    assert_eq!(running.credential("database").await["version"], login);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_operator_may_try_although_probes_were_rejected_for_long() {
    let tenant = SERVICE.migrated("long_wrong").await;
    let launch = SERVICE.launch(&tenant).env("APP_SECRETS__PROBE_EVERY", "1s");
    let mut running = RunningService::start(launch, &tenant).await;
    let wrong = login_with_password(&tenant, "sentinel-later");
    tenant.put("database", &wrong).await.unwrap();
    assert_kept(&running.reload().await, 77);
    let rejected = async || {
        let count = tenant.rejected_logins(&tenant.app_role()).unwrap();
        if count >= 4 { Ok(()) } else { Err(count) }
    };
    eventually("retries, which try the version at the end of each pause", rejected).await;
    tenant.set_password(&tenant.app_role(), "sentinel-later").await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 0, "this reload publishes, or a retry of the one before did");
    assert_eq!(running.status().await["generation"], 2);
}

#[tokio::test]
async fn a_login_without_privileges_is_not_published() {
    let tenant = SERVICE.migrated("reads_nothing").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    tenant.rotate_users("database").await.unwrap();
    let mut admin = tenant.admin().await.unwrap();
    let (access, user, name) = (tenant.access_role(), format!("{}_clone", tenant.app_role()), tenant.name());
    let revoke = format!("REVOKE {access} FROM {user}; GRANT CONNECT ON DATABASE {name} TO {user}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(revoke)).execute(&mut admin).await.unwrap();
    assert_eq!(running.reload().await["exit_code"], 77);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_pending_version_for_another_user_or_server_is_never_tried() {
    let tenant = SERVICE.migrated("elsewhere").await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let good = devstack::random_password();
    tenant.set_password(&tenant.app_role(), &good).await.unwrap();
    let migrator_login: Value = serde_json::from_str(&tenant.value("migrator", "AWSCURRENT").await.unwrap()).unwrap();
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    for pending in [
        json!({ "username": tenant.app_role(), "password": good, "host": "127.0.0.1", "port": port }),
        json!({ "username": tenant.app_role(), "password": good, "port": port }),
        json!({ "username": tenant.app_role(), "password": good, "dbname": "postgres" }),
        migrator_login,
        json!("sentinel: not JSON, but no bare password beside JSON either"),
    ] {
        tenant.put_pending("database", &pending.to_string()).await.unwrap();
        assert_eq!(running.reload().await["exit_code"], 77);
    }
    assert_eq!(elsewhere.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody has connected");
    assert_eq!(tenant.connections(&tenant.migrator_role()).await.unwrap(), 0);
    assert_eq!(running.status().await["generation"], 1);

    // A pending version that differs only in the password replaces the current one.
    let pending = json!({ "engine": "postgres", "username": tenant.app_role(), "password": good });
    tenant.put_pending("database", &pending.to_string()).await.unwrap();
    wait_for_generation(&running, 2).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}
