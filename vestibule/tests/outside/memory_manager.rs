//! A secrets manager in memory.

use futures_util::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use time::OffsetDateTime;
use vestibule::secrets::{Fetched, SecretId, SecretValue, Source, SourceError, Stage, VersionId, Versions};

/// The id and the value of each version, by the id of the secret and the stage.
type StoredVersions = BTreeMap<(&'static str, Stage), (String, &'static str)>;

/// A secrets manager in memory. Versions have the ids `v1`, `v2` and so on.
#[derive(Default)]
pub(crate) struct MemoryManager {
    versions: Mutex<StoredVersions>,
    creation_time: OnceLock<OffsetDateTime>,
    /// The number in the id of the newest version.
    newest: AtomicUsize,
    requests_in_flight: AtomicUsize,
    highest_concurrency: AtomicUsize,
}

impl MemoryManager {
    /// Creates a manager with these secrets, each with a current version `v1`.
    pub(crate) fn with<const N: usize>(secrets: [(&'static str, &'static str); N]) -> Arc<Self> {
        let manager = Self::default();
        for (id, value) in secrets {
            manager.store(id, Stage::Current, "v1", value);
        }
        manager.newest.store(1, Ordering::SeqCst);
        Arc::new(manager)
    }

    /// Sets the creation time of all versions. By default they have none.
    pub(crate) fn set_creation_time(&self, at: OffsetDateTime) {
        self.creation_time.set(at).expect("a test sets it once");
    }

    /// Gives a secret a new version at this stage. Returns the version's id.
    pub(crate) fn put(&self, id: &'static str, stage: Stage, value: &'static str) -> String {
        let version = format!("v{}", 1 + self.newest.fetch_add(1, Ordering::SeqCst));
        self.store(id, stage, &version, value);
        version
    }

    /// Gives a secret a new current version. The version before it becomes the previous one. Returns the new version's
    /// id.
    pub(crate) fn rotate(&self, id: &'static str, value: &'static str) -> String {
        let before = self.lock().remove(&(id, Stage::Current));
        if let Some((version, value)) = before {
            self.store(id, Stage::Previous, &version, value);
        }
        self.put(id, Stage::Current, value)
    }

    /// Returns the largest number of requests that were in flight at the same time.
    pub(crate) fn highest_concurrency(&self) -> usize {
        self.highest_concurrency.load(Ordering::SeqCst)
    }

    fn store(&self, id: &'static str, stage: Stage, version: &str, value: &'static str) {
        self.lock().insert((id, stage), (version.to_owned(), value));
    }

    fn lock(&self) -> MutexGuard<'_, StoredVersions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: &SecretId, stage: Stage, held: Option<&VersionId>) -> Fetched {
        let versions = self.lock();
        for ((stored_id, stored_stage), (version, value)) in &*versions {
            if *stored_id != id.as_str() || *stored_stage != stage {
                continue;
            }
            if held.is_some_and(|held| held.as_str() == version) {
                return Fetched::Same;
            }
            return Fetched::New(SecretValue {
                text: (*value).into(),
                version: VersionId::new(version.clone()),
                created: self.creation_time.get().copied(),
            });
        }
        Fetched::Absent
    }
}

impl Source for MemoryManager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let in_flight = 1 + self.requests_in_flight.fetch_add(1, Ordering::SeqCst);
            self.highest_concurrency.fetch_max(in_flight, Ordering::SeqCst);
            // The answer takes a while, so that concurrent requests overlap.
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.requests_in_flight.fetch_sub(1, Ordering::SeqCst);
            Ok(self.answer(id, stage, held))
        })
    }

    fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async { Ok(Versions::new()) })
    }
}
