//! Signing keys: the tokens that stay valid after a rotation, and the keys that the configuration revokes.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder, database::cut_connections, metrics_page::MetricsPage,
        reload_status::assert_kept, secrets::current_version,
    },
};
use devstack::{DEFAULT_TIMEOUT, RunningService, Tenant, eventually, problem, random_key, reqwest::StatusCode};
use serde_json::{Value, json};

/// Starts the service with this configuration, and creates two notes.
async fn start_with_notes<'a>(tenant: &'a Tenant, folder: &ConfigurationFolder) -> RunningService<'a> {
    let running = RunningService::start(folder.launch(tenant), tenant).await;
    running.create_note("one").await;
    running.create_note("two").await;
    running
}

/// Writes a configuration that revokes these versions.
fn revoke(folder: &ConfigurationFolder, versions: &[&str]) {
    folder.write(&format!("[secrets]\nrevoked = {}\n", json!(versions)));
}

#[tokio::test]
async fn the_configuration_and_a_signal_revoke_a_leaked_key_after_its_rotation() {
    let (tenant, folder) = (SERVICE.migrated("leaked").await, ConfigurationFolder::new());
    let mut running = start_with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = current_version(&tenant, "signing").await;
    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let good = running.second_page().await;
    let last_used = async || running.credential("signing").await["last_used"].clone();
    let before = last_used().await;
    assert_eq!((&before[0]["version"], before.as_array().unwrap().len()), (&json!(leaked), 1));
    assert_eq!(running.get(&path).await.status(), StatusCode::OK);
    let after = last_used().await;
    assert!(after[0]["at"].as_str() > before[0]["at"].as_str(), "a cursor of the old key is a use: {after}");
    assert_eq!(running.credential("signing").await["others"], json!({ "previous": leaked }));
    let page = MetricsPage::of(&running).await;
    let series = format!("vestibule_credential_last_used_timestamp_seconds{{name=\"signing\",version=\"{leaked}\"}}");
    assert!(page.get(&series) > 0.0);

    revoke(&folder, &[&leaked, "another-that-the-manager-does-not-know"]);
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
    assert_eq!(running.credential("signing").await["others"], Value::Null);
    assert_eq!(running.get(&good).await.status(), StatusCode::OK);
    assert_eq!(
        tenant.version("signing", "AWSPREVIOUS").await.unwrap().unwrap(),
        leaked,
        "the revoked version keeps its label"
    );
    assert_eq!(running.reload().await["outcome"], "unchanged", "a revoked version is not a change");

    let restarted = RunningService::start(folder.launch(&tenant), &tenant).await;
    problem(restarted.get(&path).await, 400).await;
    assert_eq!(restarted.get(&good).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn one_signal_loads_the_new_key_and_revokes_the_leaked_one() {
    let (tenant, folder) = (SERVICE.migrated("at_once").await, ConfigurationFolder::new());
    let mut running = start_with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = current_version(&tenant, "signing").await;
    tenant.put("signing", &random_key()).await.unwrap();
    revoke(&folder, &[&leaked]);
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
    let good = running.second_page().await;
    assert_eq!(running.get(&good).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_leaked_key_is_revoked_although_another_credential_is_malformed() {
    let (tenant, folder) = (SERVICE.migrated("beside").await, ConfigurationFolder::new());
    let mut running = start_with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = current_version(&tenant, "signing").await;
    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    tenant.put("database", "{").await.unwrap();
    revoke(&folder, &[&leaked]);
    let reload = running.reload().await;
    assert_eq!(
        (&reload["outcome"], &reload["carried_over"][0]["credential"]),
        (&json!("published"), &json!("database"))
    );
    problem(running.get(&path).await, 400).await;
    assert_eq!(
        running.reload().await["outcome"],
        "kept",
        "without a version to revoke, the malformed credential fails the reload"
    );
}

#[tokio::test]
async fn the_current_version_cannot_be_revoked_before_a_rotation() {
    let (tenant, folder) = (SERVICE.migrated("not_yet").await, ConfigurationFolder::new());
    let mut running = start_with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = current_version(&tenant, "signing").await;
    revoke(&folder, &[&leaked]);
    let reload = running.reload().await;
    assert_kept(&reload, 65);
    let error = reload["error"].as_str().unwrap();
    for part in ["credential `signing`", &leaked, "secrets.revoked", "rotate first"] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    assert_eq!(running.status().await["generation"], 1);
    assert_eq!(running.get(&path).await.status(), StatusCode::OK);

    let exited = SERVICE.launch(&tenant).env("APP_SECRETS__REVOKED", &leaked).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(65));
    assert!(exited.stderr.contains("rotate first"), "{}", exited.stderr);

    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
}

#[tokio::test]
async fn limits_that_change_with_it_do_not_keep_a_revoked_key_while_the_database_is_away() {
    let (tenant, folder) = (SERVICE.migrated("limits_beside").await, ConfigurationFolder::new());
    let mut running = start_with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = current_version(&tenant, "signing").await;
    tenant.put("signing", &random_key()).await.unwrap();
    tenant.limit_connections(&tenant.app_role(), 0).await.unwrap();
    cut_connections(&tenant).await;
    let limits = "[server]\nrequest_timeout = \"9s\"\n[database]\nmax_connections = 3\n";
    folder.write(&format!("[secrets]\nrevoked = [\"{leaked}\"]\n{limits}"));
    let reload = running.reload().await;
    assert_eq!((&reload["outcome"], &reload["exit_code"]), (&json!("published"), &json!(0)), "{reload}");
    problem(running.get(&path).await, 400).await;
    tenant.limit_connections(&tenant.app_role(), -1).await.unwrap();
    let is_served = async || running.get("/v1/notes").await.status() == StatusCode::OK;
    eventually("an answer after the next log-in", is_served).await;
}

#[tokio::test]
async fn a_revoked_password_never_logs_in() {
    let (tenant, folder) = (SERVICE.migrated("no_stand_in").await, ConfigurationFolder::new());
    let rotation = tenant.rotation("database");
    revoke(&folder, &[rotation.version()]);
    let mut running = start_with_notes(&tenant, &folder).await;
    let before = running.credential("database").await["version"].clone();
    rotation.create_pending().await.unwrap();
    rotation.set().await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "unchanged", "the database has rejected no login yet");
    // Other options of a log-in are proven by one.
    folder.write(&format!("[secrets]\nrevoked = [\"{}\"]\n[database]\nstartup_options = false\n", rotation.version()));
    let reload = running.reload().await;
    assert_eq!(
        (&reload["outcome"], &reload["exit_code"]),
        (&json!("kept"), &json!(77)),
        "a pending version does not replace it"
    );
    rotation.finish().await.unwrap();
    let reload = running.reload().await;
    assert_kept(&reload, 65);
    assert_eq!(running.credential("database").await["version"], before);

    folder.write("");
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.credential("database").await["version"], rotation.version());
}

#[tokio::test]
async fn a_cursor_that_was_tampered_with_is_rejected() {
    let tenant = SERVICE.migrated("tampered").await;
    let running = SERVICE.start(&tenant).await;
    for number in 0..2 {
        running.create_note(&number.to_string()).await;
    }
    let path = running.second_page().await;
    let (_, cursor) = path.rsplit_once('=').unwrap();
    let (key, rest) = cursor.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let flipped = if payload.ends_with('A') { "B" } else { "A" };
    for tampered in [
        format!("{key}.{}{flipped}.{signature}", &payload[..payload.len() - 1]),
        format!("{key}.{payload}.{}", signature.chars().rev().collect::<String>()),
        format!("other.{payload}.{signature}"),
        "x".into(),
        "..".into(),
        String::new(),
    ] {
        let detail = problem(running.get(&format!("/v1/notes?cursor={tampered}")).await, 400).await;
        assert!(detail.contains("`cursor`"), "{detail}");
    }
}
