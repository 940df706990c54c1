//! The users of a generation, and what its requests ended with.

use crate::request_history::RequestHistory;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// The users of one generation, counted while they last, and the answers of its requests. It outlives the generation.
#[derive(Debug, Default)]
pub(crate) struct GenerationUsage {
    requests: AtomicUsize,
    /// The pieces of background work that are under way, by the name of their worker.
    work: Mutex<BTreeMap<&'static str, usize>>,
    /// The long-lived responses, by route.
    long_lived: Mutex<BTreeMap<String, usize>>,
    answered: AtomicU64,
    failed: AtomicU64,
    microseconds: AtomicU64,
    /// The requests of all generations.
    history: Arc<RequestHistory>,
}

/// The answers of a generation's requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    pub(crate) answered: u64,
    /// The answers with a status from 500 on.
    pub(crate) failed: u64,
    /// The sum of the times until the responses began.
    pub(crate) microseconds: u64,
}

/// A piece of background work that is under way.
pub(crate) struct PieceGuard {
    usage: Arc<GenerationUsage>,
    worker: &'static str,
}

/// A long-lived response that is under way.
#[derive(Debug)]
pub(crate) struct LongLivedGuard {
    usage: Arc<GenerationUsage>,
    route: String,
    _place: OwnedSemaphorePermit,
}

impl GenerationUsage {
    /// Makes the usage of a new generation. Its answers also count in `history`.
    pub(crate) fn recorded_in(history: Arc<RequestHistory>) -> Self {
        Self { history, ..Self::default() }
    }

    /// Counts a request until [`request_ended`](Self::request_ended).
    pub(crate) fn request_started(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_ended(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a response that begins now. Its request came at `started`.
    pub(crate) fn answered(&self, is_failure: bool, started: Instant) {
        let now = Instant::now();
        let duration = now.duration_since(started);
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(is_failure.into(), Ordering::Relaxed);
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
        self.history.record(now, duration, is_failure);
    }

    /// Counts a request that was answered with an error because too many were in flight. It says nothing of the generation,
    /// so it is no answer of it.
    pub(crate) fn request_refused(&self) {
        self.history.record(Instant::now(), Duration::ZERO, true);
    }

    /// Counts a piece of work until the guard is dropped.
    pub(crate) fn piece_of_work(self: &Arc<Self>, worker: &'static str) -> PieceGuard {
        add(&mut lock(&self.work), worker);
        PieceGuard { usage: self.clone(), worker }
    }

    /// Counts a long-lived response, and keeps its place, until the guard is dropped.
    pub(crate) fn long_lived(self: &Arc<Self>, route: &str, place: OwnedSemaphorePermit) -> LongLivedGuard {
        add(&mut lock(&self.long_lived), route.to_owned());
        LongLivedGuard { usage: self.clone(), route: route.to_owned(), _place: place }
    }

    /// Returns the number of requests whose response has not ended.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the number of pieces of work that are under way, by the name of their worker.
    pub(crate) fn work(&self) -> BTreeMap<&'static str, usize> {
        lock(&self.work).clone()
    }

    /// Returns the number of long-lived responses, by route.
    pub(crate) fn long_lived_responses(&self) -> BTreeMap<String, usize> {
        lock(&self.long_lived).clone()
    }

    /// Returns `true` while a request, a piece of work or a long-lived response is under way.
    pub(crate) fn is_any(&self) -> bool {
        self.requests() > 0 || !lock(&self.work).is_empty() || !lock(&self.long_lived).is_empty()
    }

    pub(crate) fn answers(&self) -> Answers {
        Answers {
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            microseconds: self.microseconds.load(Ordering::Relaxed),
        }
    }
}

impl Drop for PieceGuard {
    fn drop(&mut self) {
        remove(&mut lock(&self.usage.work), &self.worker);
    }
}

impl Drop for LongLivedGuard {
    fn drop(&mut self) {
        remove(&mut lock(&self.usage.long_lived), &self.route);
    }
}

/// The users that are under way, by name.
type Users<N> = BTreeMap<N, usize>;

fn lock<N>(users: &Mutex<Users<N>>) -> MutexGuard<'_, Users<N>> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add<N: Ord>(users: &mut Users<N>, name: N) {
    *users.entry(name).or_default() += 1;
}

fn remove<N: Ord>(users: &mut Users<N>, name: &N) {
    if let Some(number) = users.get_mut(name) {
        *number -= 1;
        if *number == 0 {
            users.remove(name);
        }
    }
}
