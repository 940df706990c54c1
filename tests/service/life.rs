//! Tests of every service that holds secrets: its start, a rotation and its migrations.

use crate::{ROUTE, SERVICE};
use devstack::{
    DEFAULT_TIMEOUT,
    reqwest::{Client, StatusCode},
};
use tokio::{sync::watch, task::JoinSet};

#[tokio::test]
async fn a_start_without_a_credential_ends_with_66_and_names_it() {
    let tenant = SERVICE.migrated("absent").await;
    for credential in SERVICE.credentials().await.iter().filter(|one| one.name != "migrator") {
        let value = tenant.value(&credential.name, "AWSCURRENT").await.unwrap();
        tenant.delete(&credential.name).await.unwrap();
        let exited = SERVICE.launch(&tenant).start().exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, Some(66), "{}", exited.stderr);
        for part in [format!("credential `{}`", credential.name), tenant.id(&credential.name)] {
            assert!(exited.stderr.contains(&part), "{part} is missing in {}", exited.stderr);
        }
        tenant.put(&credential.name, &value).await.unwrap();
    }
    SERVICE.start(&tenant).await;
}

#[tokio::test]
async fn no_request_fails_while_the_password_of_the_database_is_rotated() {
    let tenant = SERVICE.migrated("rotation").await;
    let mut running = SERVICE.start(&tenant).await;
    let url = running.url(ROUTE);
    let (stop, stopped) = watch::channel(false);
    let clients: JoinSet<usize> = (0..4).map(|_| keep_requesting(url.clone(), stopped.clone())).collect();
    for generation in 2..=3 {
        let version = tenant.rotate("database").await.unwrap();
        assert_eq!(running.reload().await["exit_code"], 0);
        assert_eq!(running.status().await["generation"], generation);
        let loaded = running.credential("database").await;
        assert_eq!((loaded["version"].as_str(), loaded["stage"].as_str()), (Some(version.as_str()), Some("current")));
    }
    stop.send(true).unwrap();
    let served = clients.join_all().await;
    assert!(served.iter().all(|served| *served > 10), "{served:?}");
}

/// Gets `url` until it is told to stop. Returns the number of answers.
///
/// # Panics
/// If an answer is not 200.
async fn keep_requesting(url: String, stopped: watch::Receiver<bool>) -> usize {
    let client = Client::builder().no_proxy().build().expect("a client");
    let mut served = 0;
    while !*stopped.borrow() {
        assert_eq!(client.get(&url).send().await.expect("an answer").status(), StatusCode::OK);
        served += 1;
    }
    served
}

#[tokio::test]
async fn a_service_starts_only_after_its_schema_is_migrated() {
    let tenant = SERVICE.tenant("migrate").await;
    let not_migrated = SERVICE.launch(&tenant).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(not_migrated.code, Some(69), "{}", not_migrated.stderr);
    assert!(not_migrated.stderr.contains("migrate`"), "{}", not_migrated.stderr);
    for round in ["the first time", "again"] {
        let migrate = SERVICE.launch(&tenant).args(["migrate"]).run();
        assert_eq!(migrate.code, Some(0), "{round}: {}", migrate.stderr);
    }
    SERVICE.start(&tenant).await;
}
