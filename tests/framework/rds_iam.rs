//! A database that is logged in to with IAM: a token is signed for each log-in, and there is no secret.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder,
        database::cut_connections,
        launch_options::LaunchOptions,
        log_events::{events_of_level, events_that_say},
        platform::PlatformService,
        rds_front::RdsFront,
        reload_status::assert_kept,
        secrets::login_with_password,
        stand_in::StandIn,
        time_waits::let_time_pass,
    },
};
use devstack::{DEFAULT_TIMEOUT, Launch, RunningService, Tenant, eventually, free_port, reqwest::StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// Creates a tenant whose database has a front. Its login at the manager becomes one that cannot be read: nobody needs it.
async fn tenant_with_front(label: &str) -> (Tenant, RdsFront) {
    let tenant = SERVICE.migrated(label).await;
    let front = RdsFront::before(&tenant).await;
    tenant.put("database", "{").await.expect("the manager stores it");
    (tenant, front)
}

async fn wait_until_served(running: &RunningService<'_>, path: &str) {
    eventually("a request that is served", async || {
        let status = running.get(path).await.status();
        if status == StatusCode::OK { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn each_log_in_has_a_token_of_its_own_and_no_secret_is_fetched() {
    let (tenant, front) = tenant_with_front("iam").await;
    let mut running = RunningService::start(front.launch(&tenant), &tenant).await;
    let note = running.create_note("a note").await;
    assert_eq!(front.tokens().len(), 1, "the proof of the start opens the first connection");
    // A token has its time to the second.
    let_time_pass("the next token shall have another second", Duration::from_secs(1)).await;
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
    let tokens = front.tokens();
    assert!(tokens.len() > 1 && tokens.first() != tokens.last(), "{} log-ins", tokens.len());

    let status = running.status().await;
    let user = tenant.app_role();
    let port = &status["iam_databases"][0]["port"];
    let shown = json!([{ "name": "database", "auth": "iam", "username": user, "host": "localhost", "port": port }]);
    assert_eq!(status["iam_databases"], shown);
    let credentials: Vec<&Value> =
        status["credentials"].as_array().expect("a list").iter().map(|held| &held["name"]).collect();
    assert_eq!(credentials, ["signing"], "the others have a secret");
    assert_eq!(running.reload().await["outcome"], "unchanged");
    let (_, _, page) = running.page("/").await;
    assert!(page.contains("needs no secret"), "{page}");

    let audit = SERVICE.launch(&tenant).args(["audit", &running.at.admin]).run();
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
    assert!(audit.stdout.lines().any(|line| line.contains("database") && line.ends_with("iam")), "{}", audit.stdout);
}

#[tokio::test]
async fn a_rejected_token_is_tried_again_without_reloads_until_the_policy_allows_it() {
    let (tenant, front) = tenant_with_front("iam_denied").await;
    let launch = front.launch(&tenant).env("APP_SECRETS__PROBE_EVERY", "1s");
    let mut running = RunningService::start(launch.env("APP_DATABASE__ACQUIRE_TIMEOUT", "500ms"), &tenant).await;
    let note = running.create_note("a note").await;
    front.deny(true);
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let before = front.tokens().len();
    eventually("tries by the pool itself", async || {
        let tries = front.tokens().len() - before;
        if tries >= 2 { Ok(()) } else { Err(tries) }
    })
    .await;
    let events = events_that_say(&running.process, "rejects the token");
    let [event] = &events[..] else { panic!("one event: {events:#?}") };
    let remedy = event["fields"]["remedy"].as_str().expect("a remedy");
    assert!(remedy.contains("rds_iam") && remedy.contains("rds-db:connect"), "{remedy}");
    let status = running.status().await;
    assert_eq!((&status["generation"], &status["last_reload"]), (&json!(1), &Value::Null), "no reload can help");
    assert_eq!(running.reload().await["outcome"], "unchanged", "nothing at the manager is rejected");
    front.deny(false);
    wait_until_served(&running, &note).await;
    assert!(events_of_level(&running.process, "ERROR").is_empty());
}

/// Prepares a start whose identity is that of an agent, to which `StandIn::relay` at this port is the way.
fn launch_behind_agent(front: &RdsFront, tenant: &Tenant, port: u16) -> Launch {
    let launch = front.launch(tenant).env("APP_SECRETS__PROBE_EVERY", "1s");
    let launch = launch.env("APP_DATABASE__ACQUIRE_TIMEOUT", "500ms").env("HOME", "/nonexistent");
    let launch = launch.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://127.0.0.1:{port}/keys"));
    launch.env_remove("AWS_ACCESS_KEY_ID")
}

#[tokio::test]
async fn log_ins_go_on_with_the_identity_while_the_platform_gives_no_other_one() {
    let (tenant, front) = tenant_with_front("iam_kept").await;
    let (agent, port) = (PlatformService::container_agent().await, free_port());
    let way_to_agent = StandIn::relay(port, agent.address()).await;
    let running = RunningService::start(launch_behind_agent(&front, &tenant, port), &tenant).await;
    let note = running.create_note("a note").await;
    assert!(front.tokens()[0].contains("X-Amz-Security-Token=token&"), "the identity has a session");
    drop(way_to_agent);
    for is_denied in [false, true] {
        front.deny(is_denied);
        cut_connections(&tenant).await;
        if is_denied {
            assert_eq!(running.get(&note).await.status(), StatusCode::SERVICE_UNAVAILABLE);
            front.deny(false);
        }
        wait_until_served(&running, &note).await;
    }
}

#[tokio::test]
async fn log_ins_fail_while_the_platform_gives_no_identity_and_succeed_afterwards() {
    let (tenant, front) = tenant_with_front("iam_platform").await;
    let (agent, port) = (PlatformService::agent_with_ended_keys().await, free_port());
    let way_to_agent = StandIn::relay(port, agent.address()).await;
    let running = RunningService::start(launch_behind_agent(&front, &tenant, port), &tenant).await;
    let note = running.create_note("a note").await;
    drop(way_to_agent);
    cut_connections(&tenant).await;
    eventually("the reason in the log", async || {
        let status = running.get(&note).await.status();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let events = events_that_say(&running.process, "cannot log in without a token");
        let [event] = &events[..] else { return Err(format!("{events:?}")) };
        let reason = event["fields"]["reason"].as_str().expect("a reason");
        assert!(reason.contains("the container's agent: connecting to 127.0.0.1"), "{reason}");
        Ok(())
    })
    .await;
    let _way_to_agent = StandIn::relay(port, agent.address()).await;
    wait_until_served(&running, &note).await;
}

#[tokio::test]
async fn a_reload_changes_from_a_password_to_tokens_and_back() {
    let tenant = SERVICE.migrated("iam_change").await;
    let (front, folder) = (RdsFront::before(&tenant).await, ConfigurationFolder::new());
    let login = login_with_password(&tenant, front.password_of(&tenant.app_role()));
    tenant.put("database", &login).await.expect("the manager stores it");
    let launch = front.configure(folder.launch(&tenant), &tenant);
    let mut running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    for (auth, tokens, credentials) in [("iam", 1, 1), ("password", 1, 2)] {
        folder.write(&format!("[database]\nauth = \"{auth}\"\n"));
        assert_eq!(running.reload().await["outcome"], "published");
        assert_eq!(running.get(&note).await.status(), StatusCode::OK);
        assert_eq!(front.tokens().len(), tokens);
        let status = running.status().await;
        assert_eq!(status["credentials"].as_array().map(Vec::len), Some(credentials), "{status}");
        assert_eq!(status["iam_databases"].is_array(), auth == "iam", "{status}");
    }
    // The other way round, a user that was not granted what it needs keeps nothing from its service.
    front.deny(true);
    folder.write("[database]\nauth = \"iam\"\n");
    assert_kept(&running.reload().await, 77);
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_start_says_what_a_rejected_token_needs() {
    let (tenant, front) = tenant_with_front("iam_start").await;
    front.deny(true);
    let exited = front.launch(&tenant).with_short_deadline().start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(77), "{}", exited.stderr);
    for text in ["credential `database` (IAM)", "PAM authentication failed", "rds_iam", "rds-db:connect"] {
        assert!(exited.stderr.contains(text), "{text} is missing in:\n{}", exited.stderr);
    }
}

#[tokio::test]
async fn a_start_without_an_identity_says_so() {
    let tenant = SERVICE.migrated_at_openbao("iam_nobody").await;
    let front = RdsFront::before(&tenant).await;
    let launch = front.launch(&tenant).with_short_deadline().env("HOME", "/nonexistent");
    let exited = launch.env_remove("AWS_ACCESS_KEY_ID").start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(77), "{}", exited.stderr);
    for text in ["no token can be signed", "no provider has one", "give the process an identity"] {
        assert!(exited.stderr.contains(text), "{text} is missing in:\n{}", exited.stderr);
    }
    // With one, the secrets may be at Vault or OpenBao.
    let running = RunningService::start(front.launch(&tenant), &tenant).await;
    running.create_note("a note").await;
}

#[tokio::test]
async fn check_and_migrate_log_in_with_tokens() {
    let tenant = SERVICE.tenant("iam_commands").await;
    let front = RdsFront::before(&tenant).await;
    tenant.put("database", "{").await.expect("the manager stores it");
    let migrator = tenant.migrator_role();
    let login = json!({ "username": migrator, "password": front.password_of(&migrator) });
    tenant.put("migrator", &login.to_string()).await.expect("the manager stores it");
    let migrate = || front.launch(&tenant).args(["migrate"]);
    let with_password = migrate().start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(with_password.code, Some(0), "{}", with_password.stderr);
    assert_eq!(front.tokens().len(), 0, "its own login has a password");
    tenant.put("migrator", "{").await.expect("the manager stores it");
    let with_token = migrate().env("APP_DATABASE__MIGRATOR_USERNAME", migrator).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(with_token.code, Some(0), "{}", with_token.stderr);
    assert_eq!(front.tokens().len(), 1);

    let offline = front.launch(&tenant).args(["check"]).start().exited(DEFAULT_TIMEOUT).await;
    let text = format!("[database], user {} at localhost:", tenant.app_role());
    assert!(offline.stdout.contains(&text) && offline.stdout.contains("needs no secret"), "{}", offline.stdout);
    assert!(!offline.stdout.contains("credential database"), "{}", offline.stdout);
    let live = front.launch(&tenant).args(["check", "--live"]).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(live.code, Some(0), "{}", live.stderr);
    assert!(live.stdout.contains("has logged in with a token"), "{}", live.stdout);
}

#[tokio::test]
async fn a_proxy_that_refuses_startup_options_is_served_without_them() {
    let (tenant, front) = tenant_with_front("rds_proxy").await;
    front.refuse_options();
    let exited = front.launch(&tenant).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(69), "{}", exited.stderr);
    for text in ["command-line options", "set database.startup_options to false", "ALTER ROLE"] {
        assert!(exited.stderr.contains(text), "{text} is missing in:\n{}", exited.stderr);
    }
    let launch = front.launch(&tenant).env("APP_DATABASE__STARTUP_OPTIONS", "false");
    let running = RunningService::start(launch, &tenant).await;
    let note = running.create_note("a note").await;
    cut_connections(&tenant).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}
