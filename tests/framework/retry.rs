//! Loads that the service tries again by itself, and the events that end the retries.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder,
        launch_options::LaunchOptions,
        reload_status::wait_for_generation,
        secrets::{login_with_password, scripted_manager, wait_for_request},
        slow_request::SlowRequest,
        time_waits::stays,
    },
};
use devstack::{
    DEFAULT_TIMEOUT, FaultRule, RunningService, ScriptedFault, Signal, Tenant, TestProcess, eventually,
    reqwest::StatusCode,
};
use std::time::{Duration, Instant};

/// Starts the service with a wrong password at the manager. Puts the right one there when the service has reported that
/// the login is rejected.
async fn start_with_a_wrong_password_first(tenant: &Tenant) -> TestProcess {
    let good = tenant.value("database", "AWSCURRENT").await.expect("a login");
    let wrong = login_with_password(tenant, "sentinel-wrong");
    tenant.put("database", &wrong).await.expect("the manager stores it");
    let mut process = SERVICE.launch(tenant).start();
    process.wait_for_line(|line| line.contains("a login is rejected"), DEFAULT_TIMEOUT).await;
    tenant.put("database", &good).await.expect("the manager stores it");
    process
}

#[tokio::test]
async fn a_start_that_waited_for_a_new_version_reports_the_fault_after_it() {
    let tenant = SERVICE.tenant("label_schema").await;
    let process = start_with_a_wrong_password_first(&tenant).await;
    let exited = process.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(69), "{}", tenant.redact(&exited.stderr));
    assert!(exited.stderr.contains("migrate`"), "{}", tenant.redact(&exited.stderr));
}

#[tokio::test]
async fn a_start_with_a_rejected_login_waits_for_a_new_version() {
    let tenant = SERVICE.migrated("label").await;
    let mut process = start_with_a_wrong_password_first(&tenant).await;
    process.listening().await;
    assert_eq!(tenant.rejected_logins(&tenant.app_role()).unwrap(), 1);
}

#[tokio::test]
async fn a_failed_reload_is_tried_again_until_the_manager_is_back() {
    let tenant = SERVICE.migrated("comes_back").await;
    let manager = scripted_manager(&tenant).await;
    let launch =
        SERVICE.launch(&tenant).with_manager(&manager).with_short_deadline().env("APP_SECRETS__MAX_STALE", "5s");
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    let version = tenant.rotate("database").await.unwrap();
    manager.script([FaultRule::all(ScriptedFault::Status(500, "InternalServiceError"))]);
    assert_eq!(running.reload().await["exit_code"], 69);
    let is_degraded = async || running.admin("/readyz").await.1["status"] == "degraded";
    eventually("stale credentials", is_degraded).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    manager.clear();
    let status = wait_for_generation(&running, 2).await;
    assert_eq!(status["signals"]["seen"], 1);
    assert_eq!(running.credential("database").await["version"], version);
    assert_eq!(running.admin("/readyz").await.1["status"], "ready");
}

#[tokio::test]
async fn a_broken_file_does_not_end_the_retries() {
    let tenant = SERVICE.migrated("broken_file").await;
    let manager = scripted_manager(&tenant).await;
    let folder = ConfigurationFolder::new();
    folder.write("[secrets]\ndeadline = \"6s\"\n");
    let launch = folder.launch(&tenant).with_manager(&manager);
    let mut running = RunningService::start(launch, &tenant).await;
    tenant.rotate("database").await.unwrap();
    manager.script([FaultRule::all(ScriptedFault::Status(500, "InternalServiceError"))]);
    assert_eq!(running.reload().await["exit_code"], 69);
    folder.write("[secrets");
    assert_eq!(running.reload().await["exit_code"], 78);
    manager.clear();
    wait_for_generation(&running, 2).await;
}

#[tokio::test]
async fn a_new_configuration_is_tried_until_the_manager_answers() {
    let tenant = SERVICE.migrated("wish").await;
    let manager = scripted_manager(&tenant).await;
    let folder = ConfigurationFolder::new();
    folder.write("[secrets]\nrefresh_every = \"1s\"\ndeadline = \"6s\"\n");
    let launch = folder.launch(&tenant).env_remove("APP_SECRETS__REFRESH_EVERY").with_manager(&manager);
    let mut running = RunningService::start(launch, &tenant).await;
    tenant.put("another", &devstack::random_key()).await.unwrap();
    let another = tenant.id("another");
    manager.script([FaultRule::on(another.clone(), ScriptedFault::Status(500, "InternalServiceError"))]);
    folder.write(&format!(
        "[secrets]\nrefresh_every = \"1s\"\ndeadline = \"6s\"\n[secrets.ids]\nsigning = \"{another}\"\n"
    ));
    assert_eq!(running.reload().await["exit_code"], 69);
    // Polls use the configuration in service. The service still retries the new one.
    running.wait_until("a poll", |status| status["last_reload"]["trigger"] == "poll").await;
    folder.write("not even TOML");
    manager.clear();
    wait_for_generation(&running, 2).await;
    assert_eq!(running.credential("signing").await["id"], another);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_reload() {
    let tenant = SERVICE.migrated("middle").await;
    let manager = scripted_manager(&tenant).await;
    let mut running = RunningService::start(SERVICE.launch(&tenant).with_manager(&manager), &tenant).await;
    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    let before = manager.requests(&tenant.id("database"));
    running.process.signal(Signal::HUP);
    wait_for_request(&manager, &tenant.id("database"), before).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "the stop waited for the manager");
}

#[tokio::test]
async fn no_generation_is_published_during_a_stop() {
    let tenant = SERVICE.migrated("not_published").await;
    let manager = scripted_manager(&tenant).await;
    let mut running = RunningService::start(SERVICE.launch(&tenant).with_manager(&manager), &tenant).await;
    running.create_note("opens a connection").await;
    let slow = SlowRequest::start(&running).await;
    tenant.rotate("database").await.unwrap();
    manager.script([FaultRule::all(ScriptedFault::Delay(Duration::from_secs(3)))]);
    running.process.signal(Signal::HUP);
    running.wait_until("the start of the reload", |status| status["signals"]["covered"] == 1).await;
    running.process.signal(Signal::TERM);
    let is_first = async || running.status().await["generation"] == 1;
    stays("the first generation", Duration::from_secs(4), is_first).await;
    assert_eq!(running.status().await["stopping"], true);
    assert_eq!(slow.finish().await, StatusCode::CREATED);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
}

#[tokio::test]
async fn an_unknown_key_of_another_replica_is_fetched() {
    let tenant = SERVICE.migrated("unknown_key").await;
    let manager = scripted_manager(&tenant).await;
    let mut ahead = SERVICE.start(&tenant).await;
    let behind = RunningService::start(SERVICE.launch(&tenant).with_manager(&manager), &tenant).await;
    for text in ["one", "two"] {
        ahead.create_note(text).await;
    }
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(ahead.reload().await["outcome"], "published");
    let next = ahead.second_page().await;
    assert_eq!(behind.get(&next).await.status(), StatusCode::BAD_REQUEST);
    let status = wait_for_generation(&behind, 2).await;
    assert_eq!(status["signals"]["seen"], 0);
    assert_eq!(behind.get(&next).await.status(), StatusCode::OK);

    let requests = manager.requests(&tenant.id("signing"));
    for made_up in ["made-up.AAAA.AAAA", "other.AAAA.AAAA"] {
        assert_eq!(behind.get(&format!("/v1/notes?cursor={made_up}")).await.status(), StatusCode::BAD_REQUEST);
    }
    // An unknown key causes one reload in 30 s at most.
    let is_unchanged = async || manager.requests(&tenant.id("signing")) == requests;
    stays("the number of requests to the manager", Duration::from_millis(500), is_unchanged).await;
}
