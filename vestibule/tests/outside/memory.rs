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

/// Versions with their values, by id and stage.
type Held = BTreeMap<(&'static str, Stage), (String, &'static str)>;

/// What it holds, and the most requests that were under way at once.
#[derive(Default)]
pub(crate) struct Memory {
    held: Mutex<Held>,
    created: OnceLock<OffsetDateTime>,
    put: AtomicUsize,
    concurrency: AtomicUsize,
    most: AtomicUsize,
}

impl Memory {
    /// One with these values, all of them in version `v1`.
    pub(crate) fn with<const N: usize>(values: [(&'static str, &'static str); N]) -> Arc<Self> {
        let memory = Self::default();
        for (id, value) in values {
            memory.label(id, Stage::Current, "v1", value);
        }
        memory.put.store(1, Ordering::SeqCst);
        Arc::new(memory)
    }

    /// From now on it says of all versions that they were made then.
    pub(crate) fn created_at(&self, at: OffsetDateTime) {
        self.created.set(at).expect("it is said once");
    }

    /// Gives a secret a new version at this stage; returns its id.
    pub(crate) fn put(&self, id: &'static str, stage: Stage, value: &'static str) -> String {
        let version = format!("v{}", 1 + self.put.fetch_add(1, Ordering::SeqCst));
        self.label(id, stage, &version, value);
        version
    }

    /// Gives a secret a new current version; the one before becomes the previous one.
    pub(crate) fn rotate(&self, id: &'static str, value: &'static str) -> String {
        let before = self.lock().remove(&(id, Stage::Current));
        if let Some((version, value)) = before {
            self.label(id, Stage::Previous, &version, value);
        }
        self.put(id, Stage::Current, value)
    }

    /// The most requests that were under way at once.
    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn label(&self, id: &'static str, stage: Stage, version: &str, value: &'static str) {
        self.lock().insert((id, stage), (version.to_owned(), value));
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: &SecretId, stage: Stage, held: Option<&VersionId>) -> Fetched {
        let all = self.lock();
        let found = all.iter().find(|((known, at), _)| *known == id.as_str() && *at == stage);
        match found {
            Some((_, (version, _))) if held.is_some_and(|held| held.as_str() == version) => Fetched::Same,
            Some((_, (version, value))) => Fetched::New(SecretValue {
                text: (*value).into(),
                version: VersionId::new(version.clone()),
                created: self.created.get().copied(),
            }),
            None => Fetched::Absent,
        }
    }
}

impl Source for Memory {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            self.most.fetch_max(1 + self.concurrency.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.concurrency.fetch_sub(1, Ordering::SeqCst);
            Ok(self.answer(id, stage, held))
        })
    }

    fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async { Ok(Versions::new()) })
    }
}
