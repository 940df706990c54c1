//! What a service that holds secrets owes to those who run it.

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
    let clients: JoinSet<usize> = (0..4).map(|_| keep_asking(url.clone(), stopped.clone())).collect();
    for generation in 2..=3 {
        let version = tenant.rotate("database").await.unwrap();
        assert_eq!(running.reload().await["exit_code"], 0);
        assert_eq!(running.status().await["generation"], generation);
        let held = running.credential("database").await;
        assert_eq!((held["version"].as_str(), held["stage"].as_str()), (Some(version.as_str()), Some("current")));
    }
    stop.send(true).unwrap();
    let served = clients.join_all().await;
    assert!(served.iter().all(|served| *served > 10), "{served:?}");
}

/// Asks again and again, and counts the answers. One that is not 200 is a panic.
async fn keep_asking(url: String, stopped: watch::Receiver<bool>) -> usize {
    let client = Client::builder().no_proxy().build().expect("a client");
    let mut served = 0;
    while !*stopped.borrow() {
        assert_eq!(client.get(&url).send().await.expect("an answer").status(), StatusCode::OK);
        served += 1;
    }
    served
}

#[tokio::test]
async fn a_schema_behind_the_binary_is_no_start_until_it_is_migrated() {
    let tenant = SERVICE.tenant("migrate").await;
    let behind = SERVICE.launch(&tenant).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(behind.code, Some(69), "{}", behind.stderr);
    assert!(behind.stderr.contains("migrate`"), "{}", behind.stderr);
    for round in ["the first time", "again"] {
        let migrate = SERVICE.launch(&tenant).args(["migrate"]).run();
        assert_eq!(migrate.code, Some(0), "{round}: {}", migrate.stderr);
    }
    SERVICE.start(&tenant).await;
}
