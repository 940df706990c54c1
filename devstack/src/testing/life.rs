//! Checks of what every service does: it starts with all credentials alone, serves during rotations, and needs its schema.

use reqwest::{Client, StatusCode};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::testing::binary::Binary;
use crate::testing::eventually::DEFAULT_TIMEOUT;

impl Binary {
    /// Checks that a start without any one of its credentials ends with 66, and that the report names the credential.
    ///
    /// # Panics
    /// If it does not.
    pub async fn check_absent_credentials(&self) {
        let tenant = self.migrated("absent").await;
        for credential in self.credentials().await.iter().filter(|one| !one.is_migrator()) {
            let value = tenant.value(&credential.name, "AWSCURRENT").await.expect("a value");
            tenant.delete(&credential.name).await.expect("the manager deletes it");
            let exited = self.launch(&tenant).start().exited(DEFAULT_TIMEOUT).await;
            assert_eq!(exited.code, Some(66), "{}", exited.stderr);
            for part in [format!("credential `{}`", credential.name), tenant.id(&credential.name)] {
                assert!(exited.stderr.contains(&part), "{part} is missing in {}", exited.stderr);
            }
            tenant.put(&credential.name, &value).await.expect("the manager stores it");
        }
        self.start(&tenant).await;
    }

    /// Rotates a credential twice while four clients get `path`, and checks that each request is answered with 200, and
    /// that each version is taken up.
    ///
    /// # Panics
    /// If a request fails, or if a version is not taken up.
    pub async fn check_rotations(&self, credential: &str, path: &str) {
        let tenant = self.migrated("rotation").await;
        let mut running = self.start(&tenant).await;
        let url = running.url(path);
        let (stop, stopped) = watch::channel(false);
        let clients: JoinSet<()> = (0..4).map(|_| keep_requesting(url.clone(), stopped.clone())).collect();
        for generation in 2..=3 {
            let version = tenant.rotate(credential).await.expect("a new version");
            assert_eq!(running.reload().await["exit_code"], 0);
            assert_eq!(running.status().await["generation"], generation);
            let held = running.credential(credential).await;
            assert_eq!((held["version"].as_str(), held["stage"].as_str()), (Some(version.as_str()), Some("current")));
        }
        stop.send_replace(true);
        clients.join_all().await;
    }

    /// Checks that the service does not start before `migrate`, that it says so, that it starts after it, and that
    /// `migrate` may run again.
    ///
    /// # Panics
    /// If one of them does not hold.
    pub async fn check_migrations(&self) {
        let tenant = self.tenant("migrate").await;
        let not_migrated = self.launch(&tenant).start().exited(DEFAULT_TIMEOUT).await;
        assert_eq!(not_migrated.code, Some(69), "{}", not_migrated.stderr);
        assert!(not_migrated.stderr.contains("migrate`"), "{}", not_migrated.stderr);
        for round in ["the first time", "again"] {
            let migrate = self.launch(&tenant).args(["migrate"]).run();
            assert_eq!(migrate.code, Some(0), "{round}: {}", migrate.stderr);
        }
        self.start(&tenant).await;
    }
}

/// Gets `url` until it is told to stop, but at least ten times.
///
/// # Panics
/// If an answer is not 200.
async fn keep_requesting(url: String, stopped: watch::Receiver<bool>) {
    let client = Client::builder().no_proxy().build().expect("a client");
    let mut served = 0;
    while served < 10 || !*stopped.borrow() {
        assert_eq!(client.get(&url).send().await.expect("an answer").status(), StatusCode::OK);
        served += 1;
    }
}
