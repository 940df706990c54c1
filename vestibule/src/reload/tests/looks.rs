//! Looks for the successor of a rejected version: what they ask the manager for, and what goes on meanwhile.

use super::fake_database::{FakeDatabase, FakeService, FakeSettings};
use crate::{
    config::{Config, settings::DatabaseConfig},
    credentials::signing_keys::SigningKeys,
    secrets::{
        id::{SecretId, VersionId},
        kind::Kind,
        source::{Fetched, Source, SourceError},
        version::{Stage, Versions},
    },
    testing::{Harness, MemoryManager},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::BoxFuture;
use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

/// `secrets.refresh_every`.
const REFRESH: Duration = Duration::from_secs(300);

/// `secrets.probe_every` of a service whose requests try no rejected version again.
const NO_PROBES: Duration = Duration::from_secs(3600);

/// A manager that counts the calls for each secret.
#[derive(Default)]
struct CountingManager {
    manager: MemoryManager,
    calls: watch::Sender<BTreeMap<String, usize>>,
    /// The secret for which it does not answer.
    silent: Mutex<Option<&'static str>>,
}

impl CountingManager {
    fn with_first_versions() -> Arc<Self> {
        let manager = Self::default();
        manager.manager.put("login", login("first"));
        manager.manager.put("keys", STANDARD.encode([1; 32]));
        Arc::new(manager)
    }

    /// Returns the calls since the last time.
    fn take_calls(&self) -> BTreeMap<String, usize> {
        self.calls.send_replace(BTreeMap::new())
    }
}

impl Source for CountingManager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        self.calls.send_modify(|calls| *calls.entry(id.to_string()).or_default() += 1);
        if self.silent.lock().unwrap().is_some_and(|silent| silent == id.as_str()) {
            return Box::pin(pending());
        }
        self.manager.fetch(id, stage, held)
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        self.manager.versions(id)
    }
}

/// A service whose login is rejected. The first reload after that has asked for everything.
struct Rejected {
    manager: Arc<CountingManager>,
    harness: Harness<FakeService>,
    rejected_at: Instant,
    keys_before: Instant,
}

impl Rejected {
    async fn start(probe_every: Duration) -> Self {
        // The pauses are random.
        fastrand::seed(1);
        let (manager, database) = (CountingManager::with_first_versions(), Arc::<FakeDatabase>::default());
        database.state().password = "first".into();
        let harness = start(&manager, &database, probe_every).await;
        harness.start_reloading();
        database.state().password = "second".into();
        assert!(harness.live().service().client.request().await.is_err(), "the password is another one");
        sleep(Duration::from_millis(10)).await;
        assert_eq!(manager.take_calls()["keys"], 2 * SigningKeys::STAGES.len(), "a start, and one whole reload");
        let keys_before = harness.reloader.status.read().borrow().verified("keys");
        Self { manager, harness, rejected_at: Instant::now(), keys_before }
    }

    /// Waits for a publication.
    async fn published(&self) {
        let mut live = self.harness.live();
        let changed = timeout(Duration::from_secs(60), live.changed()).await;
        assert_eq!(changed, Ok(true), "nothing was published: {:?}", self.manager.take_calls());
    }

    fn calls_for(&self, id: &str) -> usize {
        self.manager.calls.borrow().get(id).copied().unwrap_or_default()
    }

    fn version(&self, name: &'static str) -> VersionId {
        self.harness.live().generation().credentials.named(name).expect("no credential is optional").in_use().clone()
    }

    /// Waits until the manager is asked for this secret. Returns the time since the rejection.
    async fn asked_for(&self, id: &str) -> Duration {
        self.manager.calls.subscribe().wait_for(|calls| calls.contains_key(id)).await.unwrap();
        self.rejected_at.elapsed()
    }
}

async fn start(
    manager: &Arc<CountingManager>,
    database: &Arc<FakeDatabase>,
    probe_every: Duration,
) -> Harness<FakeService> {
    let service = FakeSettings { database: database.clone(), ..FakeSettings::default() };
    let mut config = Config { service, ..Config::default() };
    config.secrets.refresh_every = REFRESH;
    config.secrets.probe_every = probe_every;
    Harness::start(manager.clone(), config).await.expect("the password is right, or will be")
}

fn login(password: &str) -> String {
    format!("{{\"username\": \"app\", \"password\": \"{password}\"}}")
}

#[tokio::test(start_paused = true)]
async fn a_look_for_a_successor_asks_only_for_the_rejected_login() {
    let service = Rejected::start(NO_PROBES).await;
    sleep(Duration::from_secs(3)).await;
    assert!(service.calls_for("login") > 4, "looks follow each other: {:?}", service.manager.take_calls());
    let second = service.manager.manager.rotate("login", login("second"));
    service.published().await;
    assert_eq!(service.version("login"), second);
    assert_eq!(service.calls_for("keys"), 0, "nobody doubts the keys");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        service.harness.reloader.status.read().borrow().verified("keys"),
        service.keys_before,
        "the manager was not asked for the keys"
    );
    assert!(service.harness.live().service().client.request().await.is_ok());
    service.harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_rejected_again_neither_hasten_the_looks_nor_widen_them() {
    let service = Rejected::start(Duration::from_secs(15)).await;
    let requests_for = async |time: Duration| {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let client = &service.harness.live().service().client;
            assert!(client.request().await.is_err(), "the password is another one");
            sleep(Duration::from_millis(200)).await;
        }
    };
    requests_for(Duration::from_secs(60)).await;
    service.manager.take_calls();
    requests_for(Duration::from_secs(60)).await;
    let calls = service.manager.take_calls();
    // Each load asks for two stages. Four requests are tried in a minute, and the pauses take 7.5 s on average by then.
    assert!(calls["login"] <= 40, "{calls:?}");
    assert_eq!(calls.get("keys"), None, "nobody doubts the keys");
    service.harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_reported_again_widens_no_look() {
    let service = Rejected::start(NO_PROBES).await;
    let requests = &service.harness.reloader.loader.reload_requests;
    requests.request_for_rejected_key("login", service.version("login"), false);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(service.calls_for("keys"), 0, "nobody doubts the keys");
    requests.request_for_rejected_key("login", service.version("login"), true);
    assert!(timeout(Duration::from_secs(5), service.asked_for("keys")).await.is_ok(), "the first report is news");
    service.harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn looks_for_a_successor_do_not_postpone_the_poll() {
    let service = Rejected::start(NO_PROBES).await;
    let waited = service.asked_for("keys").await;
    assert!(waited <= REFRESH.mul_f64(1.1), "the other credentials are verified after {waited:?}");
    service.harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_at_the_manager_is_followed_by_looks_at_all_credentials() {
    let service = Rejected::start(NO_PROBES).await;
    sleep(Duration::from_secs(1)).await;
    service.manager.manager.rotate("login", login("wrong"));
    sleep(Duration::from_secs(10)).await;
    // A load that failed has left them out, so another one must bring both.
    let keys = service.manager.manager.rotate("keys", STANDARD.encode([2; 32]));
    let second = service.manager.manager.rotate("login", login("second"));
    service.published().await;
    assert_eq!((service.version("login"), service.version("keys")), (second, keys));
    service.harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_rejected_during_a_load_does_not_wait_for_what_that_load_waits_for() {
    let (manager, database) = (CountingManager::with_first_versions(), Arc::<FakeDatabase>::default());
    database.state().password = "first".into();
    let harness = start(&manager, &database, NO_PROBES).await;
    *manager.silent.lock().unwrap() = Some("keys");
    harness.start_reloading();
    manager.take_calls();
    manager.calls.subscribe().wait_for(|calls| calls.contains_key("keys")).await.unwrap();
    // Lets the load take the login: the clock moves only if it waits for the keys alone.
    sleep(Duration::from_millis(1)).await;
    database.state().password = "second".into();
    manager.manager.rotate("login", login("second"));
    assert!(harness.live().service().client.request().await.is_err(), "the password is another one");
    let rejected_at = Instant::now();
    let mut live = harness.live();
    assert_eq!(timeout(Duration::from_secs(60), live.changed()).await, Ok(true));
    let acquire_timeout = DatabaseConfig::default().acquire_timeout;
    assert!(rejected_at.elapsed() < acquire_timeout, "{:?}", rejected_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_start_in_the_window_of_a_rotation_waits_for_a_third_longer_at_most() {
    let window = Duration::from_secs(3);
    for seed in 0..100 {
        fastrand::seed(seed);
        let (manager, database) = (CountingManager::with_first_versions(), Arc::<FakeDatabase>::default());
        database.state().password = "second".into();
        let began = Instant::now();
        let rotating = async {
            sleep(window).await;
            manager.manager.rotate("login", login("second"));
        };
        let (harness, ()) = tokio::join!(start(&manager, &database, NO_PROBES), rotating);
        // The clock of tests counts milliseconds.
        let longest = window * 4 / 3 + Duration::from_millis(2);
        assert!(began.elapsed() <= longest, "{:?} with the seed {seed}", began.elapsed());
        harness.stop().await;
    }
}
