//! Reads of a manager: a read that lags behind another one, and a lease that comes with a value.

use super::fake_database::{FakeDatabase, FakeService, FakeSettings};
use crate::{
    config::Config,
    secrets::{
        id::{SecretId, VersionId},
        lease::{NoCalls, SecretLease},
        source::{Fetched, Source, SourceError},
        version::{SecretValue, Stage, Versions},
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
    /// The number of reads of the previous keys that do not see the last write, and the version that they see.
    lags: Mutex<Option<(usize, VersionId)>>,
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
        if let Some((left @ 1.., version)) = &mut *self.lags.lock().unwrap()
            && id.as_str() == "keys"
            && stage == Stage::Previous
        {
            *left -= 1;
            let (text, version) = (STANDARD.encode([1; 32]).into(), version.clone());
            let is_held = held == Some(&version);
            let seen = SecretValue { text, version, created: None, lease: None };
            return Box::pin(async move { Ok(if is_held { Fetched::Same } else { Fetched::New(seen) }) });
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
    let first = harness.live().generation().credentials.named("keys").unwrap().in_use().clone();
    let signed_until_now = manager.put_keys(2);
    assert!(harness.reload().await.expect("a new key"));
    manager.put_keys(3);
    // One read compares versions, and one reads the value.
    *manager.lags.lock().unwrap() = Some((2, first));
    assert!(harness.reload().await.expect("a new key"));
    assert!(manager.lags.lock().unwrap().as_ref().is_some_and(|(left, _)| *left == 0), "they have lagged");
    let generation = harness.live().generation();
    assert_eq!(generation.credentials.named("keys").unwrap().versions[&Stage::Previous], signed_until_now);
}

#[tokio::test(start_paused = true)]
async fn the_status_says_when_a_lease_is_due_with_the_drain_of_now() {
    let lease = SecretLease::new(Duration::from_secs(600), Arc::new(NoCalls));
    let manager = Arc::new(Manager { lease: Some(lease.clone()), ..Manager::default() });
    let (harness, database) = start(&manager).await;
    let service = FakeSettings { database, ..FakeSettings::default() };
    let mut config = Config { service, ..Config::default() };
    let drain = Duration::from_secs(300);
    config.server.drain = drain;
    assert!(harness.reload_with(config).await.expect("another setting"));
    let status = serde_json::to_value(&*harness.reloader.status.read().borrow()).expect("a status is JSON");
    let all = status["credentials"].as_array().expect("a list of credentials");
    let login = all.iter().find(|credential| credential["name"] == "login").expect("it is held");
    let due = lease.end().at() - lease.margin(drain);
    assert_eq!(login["lease"]["due"], due.format(&time::format_description::well_known::Rfc3339).unwrap());
}
