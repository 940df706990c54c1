//! Signing keys: what a rotation leaves valid, and what the configuration cuts off.

use crate::{DEFAULT_TIMEOUT, Notes, RunningService, config::Folder, migrated, service};
use devstack::{Tenant, problem, random_key, reqwest::StatusCode};
use serde_json::{Value, json};

/// The service with two notes, and the configuration that it reads.
async fn with_notes<'a>(tenant: &'a Tenant, folder: &Folder) -> RunningService<'a> {
    let running = RunningService::start(folder.launch(tenant), tenant).await;
    running.create("one").await;
    running.create("two").await;
    running
}

fn revoke(folder: &Folder, versions: &[&str]) {
    folder.write(&format!("[secrets]\nrevoked = {}\n", json!(versions)));
}

#[tokio::test]
async fn a_leaked_key_that_was_rotated_is_cut_off_by_the_configuration_and_a_signal() {
    let (tenant, folder) = (migrated("leaked").await, Folder::new());
    let mut running = with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = tenant.version("signing", "AWSCURRENT").await.unwrap().unwrap();
    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let good = running.second_page().await;
    assert_eq!(running.get(&path).await.status(), StatusCode::OK);
    assert_eq!(running.credential("signing").await["others"], json!({ "previous": leaked }));

    revoke(&folder, &[&leaked, "another-that-the-manager-does-not-know"]);
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
    assert_eq!(running.credential("signing").await["others"], Value::Null);
    assert_eq!(running.get(&good).await.status(), StatusCode::OK);
    assert_eq!(
        tenant.version("signing", "AWSPREVIOUS").await.unwrap().unwrap(),
        leaked,
        "it has the label all the same"
    );
    assert_eq!(running.reload().await["outcome"], "unchanged", "a revoked version is no news");

    let restarted = RunningService::start(folder.launch(&tenant), &tenant).await;
    problem(restarted.get(&path).await, 400).await;
    assert_eq!(restarted.get(&good).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn one_signal_takes_up_the_new_key_and_cuts_off_the_leaked_one() {
    let (tenant, folder) = (migrated("at_once").await, Folder::new());
    let mut running = with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = tenant.version("signing", "AWSCURRENT").await.unwrap().unwrap();
    tenant.put("signing", &random_key()).await.unwrap();
    revoke(&folder, &[&leaked]);
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
    let good = running.second_page().await;
    assert_eq!(running.get(&good).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_leaked_key_is_cut_off_beside_a_sibling_that_is_broken() {
    let (tenant, folder) = (migrated("beside").await, Folder::new());
    let mut running = with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = tenant.version("signing", "AWSCURRENT").await.unwrap().unwrap();
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
    assert_eq!(running.reload().await["outcome"], "kept", "it is told of again, now that nothing is to be cut off");
}

#[tokio::test]
async fn the_current_version_is_not_revoked_before_it_is_rotated() {
    let (tenant, folder) = (migrated("not_yet").await, Folder::new());
    let mut running = with_notes(&tenant, &folder).await;
    let path = running.second_page().await;
    let leaked = tenant.version("signing", "AWSCURRENT").await.unwrap().unwrap();
    revoke(&folder, &[&leaked]);
    let reload = running.reload().await;
    assert_eq!((&reload["outcome"], &reload["exit_code"]), (&json!("kept"), &json!(65)));
    let error = reload["error"].as_str().unwrap();
    for part in ["credential `signing`", &leaked, "secrets.revoked", "rotate first"] {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    assert_eq!(running.status().await["generation"], 1);
    assert_eq!(running.get(&path).await.status(), StatusCode::OK);

    let exited = service(&tenant).env("APP_SECRETS__REVOKED", &leaked).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(65));
    assert!(exited.stderr.contains("rotate first"), "{}", exited.stderr);

    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
}

#[tokio::test]
async fn a_revoked_password_never_logs_in() {
    let (tenant, folder) = (migrated("no_stand_in").await, Folder::new());
    let rotation = tenant.rotation("database");
    revoke(&folder, &[rotation.version()]);
    let mut running = with_notes(&tenant, &folder).await;
    let held = running.credential("database").await["version"].clone();
    rotation.create_pending().await.unwrap();
    rotation.set().await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "unchanged", "nothing was refused yet");
    // Another pool size asks for a new pool, and so for a login.
    folder.write(&format!("[secrets]\nrevoked = [\"{}\"]\n[database]\nmax_connections = 3\n", rotation.version()));
    let reload = running.reload().await;
    assert_eq!((&reload["outcome"], &reload["exit_code"]), (&json!("kept"), &json!(77)), "no pending one stands in");
    rotation.finish().await.unwrap();
    let reload = running.reload().await;
    assert_eq!((&reload["outcome"], &reload["exit_code"]), (&json!("kept"), &json!(65)));
    assert_eq!(running.credential("database").await["version"], held);

    folder.write("");
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.credential("database").await["version"], rotation.version());
}
