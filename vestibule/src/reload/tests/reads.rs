//! Reads of a manager: a read that lags behind another one, and a lease that comes with a value.

use super::fake_database::{FakeDatabase, FakeService, FakeSettings};
use crate::{
    config::Config,
    secrets::{
        id::{SecretId, VersionId},
        lease::{NoCalls, SecretLease},
        source::{Fetched, Source, SourceError},
        version::{Stage, Versions},
    },
    testing::{Harness, MemoryManager},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::BoxFuture;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// A manager with a login and signing keys.
#[derive(Default)]
struct Manager {
    memory: MemoryManager,
    /// The next read at this stage, of what is held, sees no change.
    lags: Mutex<Option<Stage>>,
    /// The lease of the login.
    lease: Option<Arc<SecretLease>>,
}

impl Source for Manager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        if held.is_some() && id.as_str() == "keys" && self.lags.lock().unwrap().take_if(|lags| *lags == stage).is_some()
        {
            return Box::pin(async { Ok(Fetched::Same) });
        }
        Box::pin(async move {
            let mut fetched = self.memory.fetch(id, stage, held).await?;
            if let Fetched::New(value) = &mut fetched
                && id.as_str() == "login"
            {
                value.lease = self.lease.clone();
            }
            Ok(fetched)
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        self.memory.versions(id)
    }
}

impl Manager {
    fn put_keys(&self, key: u8) -> VersionId {
        self.memory.rotate("keys", STANDARD.encode([key; 32]))
    }
}

async fn start(manager: &Arc<Manager>) -> (Harness<FakeService>, Arc<FakeDatabase>) {
    let database = Arc::<FakeDatabase>::default();
    database.state().password = "first".into();
    manager.memory.put("login", r#"{"username": "app", "password": "first"}"#);
    manager.put_keys(1);
    let service = FakeSettings { database: database.clone(), ..FakeSettings::default() };
    let config = Config { service, ..Config::default() };
    (Harness::start(manager.clone(), config).await.expect("the password is right"), database)
}

#[tokio::test(start_paused = true)]
async fn a_key_that_signed_until_now_verifies_although_the_read_of_the_previous_one_lags() {
    let manager = Arc::new(Manager::default());
    let (harness, _) = start(&manager).await;
    let signed_until_now = manager.put_keys(2);
    assert!(harness.reload().await.expect("a new key"));
    manager.put_keys(3);
    *manager.lags.lock().unwrap() = Some(Stage::Previous);
    assert!(harness.reload().await.expect("a new key"));
    assert_eq!(*manager.lags.lock().unwrap(), None, "it has lagged");
    let generation = harness.live().generation();
    assert_eq!(generation.credentials.named("keys").unwrap().versions[&Stage::Previous], signed_until_now);
}

#[tokio::test(start_paused = true)]
async fn the_status_says_when_a_lease_is_due_with_the_drain_of_now() {
    let lease = SecretLease::new(Duration::from_secs(3600), Arc::new(NoCalls));
    let manager = Arc::new(Manager { lease: Some(lease.clone()), ..Manager::default() });
    let (harness, database) = start(&manager).await;
    let service = FakeSettings { database, ..FakeSettings::default() };
    let mut config = Config { service, ..Config::default() };
    let drain = config.server.drain + Duration::from_secs(60);
    config.server.drain = drain;
    assert!(harness.reload_with(config).await.expect("another setting"));
    let status = serde_json::to_value(&*harness.reloader.status.read().borrow()).expect("a status is JSON");
    let all = status["credentials"].as_array().expect("a list of credentials");
    let login = all.iter().find(|credential| credential["name"] == "login").expect("it is held");
    let due = lease.end().at() - lease.margin(drain);
    assert_eq!(login["lease"]["due"], due.format(&time::format_description::well_known::Rfc3339).unwrap());
}
