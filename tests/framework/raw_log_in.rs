//! Names and passwords that the driver refuses, and PostgreSQL takes as they are.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        database::{assert_few_rejected_logins, cut_connections, run_as_superuser},
        reload_status::assert_kept,
        requests::{assert_statuses, get_at_once},
        secrets::login_with_password,
        stand_in::{HAS_TLS, StandIn},
        temporary_file::TemporaryFile,
    },
};
use devstack::{RunningService, Tenant, Validity, reqwest::StatusCode};
use serde_json::json;

/// Changes the password of the service in the database and at the manager.
async fn change_password(tenant: &Tenant, password: &str) {
    tenant.set_password(&tenant.app_role(), password).await.expect("the role exists");
    tenant.put("database", &login_with_password(tenant, password)).await.expect("the manager stores it");
}

#[tokio::test]
async fn a_rotation_takes_up_a_password_that_saslprep_does_not_know_and_leaves_it_again() {
    let tenant = SERVICE.migrated("raw").await;
    let mut running = RunningService::start(SERVICE.launch(&tenant), &tenant).await;
    let note = running.create_note("a note").await;
    for password in ["sentinel 😀", "sentinel\twith\ntwo\u{7}", "sentinel-plain", "\u{ad}sentinel-\u{378}"] {
        change_password(&tenant, password).await;
        assert_eq!(running.reload().await["outcome"], "published", "{password:?}");
        // No connection was made before.
        cut_connections(&tenant).await;
        assert_statuses(&get_at_once(&running, &note, 64).await, StatusCode::OK);
    }
    tenant.put("database", &login_with_password(&tenant, "sentinel-wrong-😀")).await.unwrap();
    assert_kept(&running.reload().await, 77);
    assert_few_rejected_logins(&tenant);
}

#[tokio::test]
async fn a_name_and_a_password_that_saslprep_does_not_know_log_in_through_verified_tls() {
    let tenant = SERVICE.migrated("raw_tls").await;
    let user = format!("{},=😀", tenant.app_role());
    let create = format!("CREATE ROLE \"{user}\" LOGIN PASSWORD 'sentinel-😀' IN ROLE {}", tenant.access_role());
    run_as_superuser(&tenant, create).await;
    tenant.remember(&user, "sentinel-😀");
    let login = json!({ "username": user, "password": "sentinel-😀" });
    tenant.put("database", &login.to_string()).await.unwrap();
    let address = tenant.database();
    let identity = tenant.authority().local(Validity::days(1));
    let front = StandIn::tls_before(&identity, HAS_TLS, (address.host, address.port)).await;
    let authorities = TemporaryFile::new(tenant.authority().certificate());
    let launch = SERVICE
        .launch(&tenant)
        .env("APP_DATABASE__HOST", "localhost")
        .env("APP_DATABASE__PORT", front.port().to_string())
        .env("APP_DATABASE__TLS", "verify-full")
        .env("APP_DATABASE__TLS_ROOT_CERT", authorities.path())
        .env("APP_SERVICE__MAX_LENGTH", "50000");
    let running = RunningService::start(launch, &tenant).await;
    // Longer than a record of TLS, and than what the sockets in between hold.
    let text = "a long note ".repeat(4_000);
    let note = running.create_note(&text).await;
    for _ in 0..4 {
        let answers = get_at_once(&running, &note, 64).await;
        assert_statuses(&answers, StatusCode::OK);
        for answer in answers {
            assert!(answer.text().await.unwrap().contains(text.trim_end()));
        }
    }
}
