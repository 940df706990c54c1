//! A secrets manager in memory.

use crate::secrets::{
    id::{SecretId, VersionId},
    source::{Fetched, Source, SourceError},
    version::{SecretValue, Stage, Versions},
};
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;

/// A secrets manager in memory, for tests. Its versions have the ids `v1`, `v2` and so on. No two have the same one, not
/// even of different secrets.
///
/// Nothing shows a value: the manager's `Debug` has ids and labels.
///
/// ```
/// use vestibule::{secrets::Stage, testing::MemoryManager};
///
/// let manager = MemoryManager::with([("hello/payment", "a key"), ("hello/webhook", "another key")]);
/// // A rotation in one step.
/// manager.rotate("hello/payment", "the next key");
/// // A rotation in two steps, as an other side sees it that accepts the new version first.
/// let pending = manager.put_at("hello/webhook", Stage::Pending, "the key after it");
/// manager.move_label("hello/webhook", Stage::Current, &pending);
/// assert!(!format!("{manager:?}").contains("key"));
/// ```
#[derive(Debug, Default)]
pub struct MemoryManager(Mutex<MemoryState>);

#[derive(Debug, Default)]
struct MemoryState {
    /// The secrets, by their ids.
    secrets: BTreeMap<String, StoredSecret>,
    /// The number in the id of the newest version.
    newest: u64,
    /// The time that each answer takes.
    delay: Duration,
}

#[derive(Debug, Default)]
struct StoredSecret {
    versions: BTreeMap<VersionId, StoredVersion>,
    labels: Versions,
    /// The number of answers that fail from now on, and their error.
    failures: Option<(usize, SourceError)>,
}

#[derive(Debug)]
struct StoredVersion {
    value: SecretString,
    created: Option<OffsetDateTime>,
}

impl MemoryManager {
    /// Makes a manager without secrets.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Makes a manager with these secrets: ids, and the values of their current versions.
    pub fn with<I: AsRef<str>, V: Into<SecretString>>(secrets: impl IntoIterator<Item = (I, V)>) -> Arc<Self> {
        let manager = Self::new();
        for (id, value) in secrets {
            manager.put(id.as_ref(), value);
        }
        manager
    }

    /// Gives a secret a new current version, and leaves the other stages as they are. Creates the secret if there is
    /// none. Returns the version's id.
    pub fn put(&self, id: &str, value: impl Into<SecretString>) -> VersionId {
        self.put_at(id, Stage::Current, value)
    }

    /// Gives a secret a new version at this stage, as [`put`](Self::put) does for the current one.
    pub fn put_at(&self, id: &str, stage: Stage, value: impl Into<SecretString>) -> VersionId {
        let mut state = self.lock();
        let version = state.add(id, value.into());
        state.secret(id).labels.insert(stage, version.clone());
        version
    }

    /// Gives a secret a new current version. The version before it becomes the previous one. Returns the new version's id.
    pub fn rotate(&self, id: &str, value: impl Into<SecretString>) -> VersionId {
        let mut state = self.lock();
        let version = state.add(id, value.into());
        state.secret(id).move_label(Stage::Current, version.clone());
        version
    }

    /// Moves the label of a stage to another version. If that makes a version current, the one before it becomes the
    /// previous one, as at AWS.
    ///
    /// # Panics
    /// If the secret has no such version.
    pub fn move_label(&self, id: &str, stage: Stage, version: &VersionId) {
        let mut state = self.lock();
        state.version(id, version);
        state.secret(id).move_label(stage, version.clone());
    }

    /// Removes the label of a stage, if there is one. The version stays, and [`move_label`](Self::move_label) can give it
    /// a label again.
    pub fn remove_label(&self, id: &str, stage: Stage) {
        self.lock().secret(id).labels.remove(&stage);
    }

    /// Removes a secret with all its versions, if there is one.
    pub fn remove(&self, id: &str) {
        self.lock().secrets.remove(id);
    }

    /// Sets the time at which the manager got the version at this stage. With `None`, the manager does not say. The
    /// default is the time at which the version was put.
    ///
    /// # Panics
    /// If the secret has no version at this stage.
    pub fn set_creation_time(&self, id: &str, stage: Stage, at: impl Into<Option<OffsetDateTime>>) {
        let mut state = self.lock();
        let version = state.secret(id).labels.get(&stage).cloned();
        let version = version.unwrap_or_else(|| panic!("the secret {id} has no version at this stage"));
        state.version(id, &version).created = at.into();
    }

    /// Lets the next answers about a secret fail with this error, values and versions alike. A transient error is retried
    /// until `secrets.deadline`, so each retry counts as an answer. With 0, the answers are good again.
    ///
    /// ```
    /// use vestibule::{secrets::SourceError, testing::MemoryManager};
    ///
    /// let manager = MemoryManager::with([("hello/payment", "a key")]);
    /// manager.fail_next("hello/payment", 2, SourceError::Unavailable("it restarts".into()));
    /// ```
    pub fn fail_next(&self, id: &str, answers: usize, error: SourceError) {
        self.lock().secret(id).failures = Some((answers, error));
    }

    /// Sets the time that each answer takes from now on, in the time of tokio. The default is none.
    pub fn delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the delay. Returns the error of this answer, if it is to fail.
    async fn begin_answer(&self, id: &SecretId) -> Result<(), SourceError> {
        let delay = self.lock().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match self.lock().secrets.get_mut(id.as_str()) {
            Some(StoredSecret { failures: Some((answers @ 1.., error)), .. }) => {
                *answers -= 1;
                Err(error.clone())
            }
            _ => Ok(()),
        }
    }
}

impl MemoryState {
    /// Stores a new version without a label. Returns its id.
    fn add(&mut self, id: &str, value: SecretString) -> VersionId {
        self.newest += 1;
        let version = VersionId::new(format!("v{}", self.newest));
        let stored = StoredVersion { value, created: Some(OffsetDateTime::now_utc()) };
        self.secret(id).versions.insert(version.clone(), stored);
        version
    }

    /// Returns a secret. Creates it if there is none.
    fn secret(&mut self, id: &str) -> &mut StoredSecret {
        self.secrets.entry(id.to_owned()).or_default()
    }

    fn version(&mut self, id: &str, version: &VersionId) -> &mut StoredVersion {
        let stored = self.secrets.get_mut(id).and_then(|secret| secret.versions.get_mut(version));
        stored.unwrap_or_else(|| panic!("the secret {id} has no version {version}"))
    }
}

impl StoredSecret {
    fn move_label(&mut self, stage: Stage, version: VersionId) {
        let before = self.labels.insert(stage, version);
        if let Some(before) = before
            && stage == Stage::Current
            && before != self.labels[&stage]
        {
            self.labels.insert(Stage::Previous, before);
        }
    }

    fn fetch(&self, stage: Stage, held: Option<&VersionId>) -> Fetched {
        match self.labels.get(&stage) {
            None => Fetched::Absent,
            Some(version) if held == Some(version) => Fetched::Same,
            Some(version) => {
                let StoredVersion { value, created } = &self.versions[version];
                let text = value.expose_secret().into();
                Fetched::New(SecretValue { text, version: version.clone(), created: *created, lease: None })
            }
        }
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
            self.begin_answer(id).await?;
            Ok(match self.lock().secrets.get(id.as_str()) {
                Some(secret) => secret.fetch(stage, held),
                None => Fetched::Absent,
            })
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async move {
            self.begin_answer(id).await?;
            Ok(match self.lock().secrets.get(id.as_str()) {
                Some(secret) => secret.labels.clone(),
                None => Versions::new(),
            })
        })
    }
}
