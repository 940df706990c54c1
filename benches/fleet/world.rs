//! The other sides of the model: a manager with a quota, and a database. They keep count.

use devstack::{TokenBucket, random_key};
use futures_util::future::BoxFuture;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use vestibule::{
    secrets::{Fetched, SecretId, Source, SourceError, Stage, VersionId, Versions},
    testing::MemoryManager,
};

/// The time that the manager takes for an answer.
const ANSWER: Duration = Duration::from_millis(10);

/// The other sides, and what they have seen.
#[derive(Debug)]
pub(super) struct World {
    manager: Arc<MemoryManager>,
    state: Mutex<WorldState>,
}

#[derive(Debug)]
pub(super) struct WorldState {
    pub(super) bucket: Arc<TokenBucket>,
    /// The versions of the login that the database rejects.
    pub(super) rejected_versions: BTreeSet<VersionId>,
    /// The number of times that all connections were killed.
    pub(super) kills: u32,
    pub(super) connections: usize,
    pub(super) most_connections: usize,
    pub(super) log_ins: usize,
    pub(super) rejected: usize,
    /// The version of the login that each replica holds, and the time since which it does.
    pub(super) held: BTreeMap<usize, (VersionId, Instant)>,
}

impl Default for World {
    fn default() -> Self {
        let manager = MemoryManager::with([("signing", random_key())]);
        let state = WorldState {
            bucket: Arc::new(TokenBucket::unlimited()),
            rejected_versions: BTreeSet::new(),
            kills: 0,
            connections: 0,
            most_connections: 0,
            log_ins: 0,
            rejected: 0,
            held: BTreeMap::new(),
        };
        Self { manager, state: Mutex::new(state) }
    }
}

impl World {
    pub(super) fn state(&self) -> MutexGuard<'_, WorldState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the manager a new login. Returns its version.
    pub(super) fn put_login(&self) -> VersionId {
        self.manager.rotate("database", format!("{{\"username\": \"app\", \"password\": \"{}\"}}", fastrand::u64(..)))
    }

    /// Has nothing counted so far, and gives the manager this quota.
    pub(super) fn begin(&self, quota: Option<u32>) {
        let mut state = self.state();
        state.bucket = Arc::new(quota.map_or_else(TokenBucket::unlimited, TokenBucket::per_second));
        (state.log_ins, state.rejected, state.most_connections) = (0, 0, state.connections);
    }

    /// Ends all connections.
    pub(super) fn kill_connections(&self) {
        let mut state = self.state();
        (state.kills, state.connections) = (state.kills + 1, 0);
    }

    /// Answers a call of the manager, after some time.
    async fn answer(&self) -> Result<(), SourceError> {
        let has_token = self.state().bucket.clone().take();
        sleep(ANSWER).await;
        if has_token { Ok(()) } else { Err(SourceError::Unavailable("ThrottlingException (HTTP 400)".into())) }
    }
}

impl Source for World {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            self.answer().await?;
            self.manager.fetch(id, stage, held).await
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async move {
            self.answer().await?;
            self.manager.versions(id).await
        })
    }
}
