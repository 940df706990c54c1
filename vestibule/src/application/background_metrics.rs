//! The metrics of background tasks and of workers.

use crate::metrics::{Counter, Gauge, MetricsRegistry, unix_seconds};
use prometheus_client::metrics::family::Family;
use slab::Slab;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};
use time::OffsetDateTime;

type OfTask<M> = Family<[(&'static str, &'static str); 1], M>;
type OfOutcome = Family<[(&'static str, &'static str); 2], Counter>;

/// The metrics of all background tasks and workers, by their names.
#[derive(Clone)]
pub(crate) struct BackgroundMetrics {
    restarts: OfTask<Counter>,
    panics: OfTask<Counter>,
    pieces: OfOutcome,
    last_finished: OfTask<Gauge<f64, AtomicU64>>,
    failing: OfTask<Gauge>,
    begun: Arc<Mutex<BTreeMap<&'static str, BegunPieces>>>,
}

/// The times at which the pieces of one name began that are under way.
type BegunPieces = Arc<Mutex<Slab<f64>>>;

/// The metrics of the workers of one name.
#[derive(Clone)]
pub(super) struct WorkerMetrics {
    name: &'static str,
    pieces: OfOutcome,
    last_finished: Gauge<f64, AtomicU64>,
    begun: BegunPieces,
    /// The number of workers that fail now.
    pub(super) failing: Gauge,
}

/// A piece of work that is under way.
pub(super) struct BegunPiece(usize);

/// The outcome of a piece of work, or of a look for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceOutcome {
    Done,
    /// There was nothing to do.
    Nothing,
    Failed,
    Panicked,
    /// It did not end by its deadline.
    Timeout,
}

impl PieceOutcome {
    const ALL: [Self; 5] = [Self::Done, Self::Nothing, Self::Failed, Self::Panicked, Self::Timeout];

    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Nothing => "nothing",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Timeout => "timeout",
        }
    }
}

impl BackgroundMetrics {
    pub(crate) fn register(metrics: &MetricsRegistry) -> Self {
        let background = Self {
            restarts: Family::default(),
            panics: Family::default(),
            pieces: Family::default(),
            last_finished: Family::default(),
            failing: Family::default(),
            begun: Arc::default(),
        };
        let help = "New starts of background tasks that panicked or ended before the process stopped";
        metrics.register("vestibule_background_restarts", help, background.restarts.clone());
        metrics.register("vestibule_background_panics", "Panics of background tasks", background.panics.clone());
        let help = "Pieces of background work, and looks for one that found nothing, by outcome";
        metrics.register("vestibule_worker_pieces", help, background.pieces.clone());
        let help = "The time at which a worker of this name last finished a piece of work, or a look for one; or the oldest began";
        metrics.register("vestibule_worker_last_finished_timestamp_seconds", help, background.last_finished.clone());
        let help = "Workers of this name whose last piece of work failed";
        metrics.register("vestibule_worker_failing", help, background.failing.clone());
        background
    }

    /// Returns the counter of the new starts of a task.
    pub(super) fn restarts(&self, task: &'static str) -> Counter {
        self.restarts.get_or_create_owned(&[("task", task)])
    }

    /// Returns the counter of the panics of a task.
    pub(super) fn panics(&self, task: &'static str) -> Counter {
        self.panics.get_or_create_owned(&[("task", task)])
    }

    /// Returns the metrics of the workers of this name. Each outcome begins with 0, and the time of the last piece with
    /// now: an alert must not fire before a first piece could end.
    pub(super) fn of_workers(&self, name: &'static str) -> WorkerMetrics {
        for outcome in PieceOutcome::ALL {
            self.pieces.get_or_create_owned(&[("worker", name), ("outcome", outcome.label())]);
        }
        let workers = WorkerMetrics {
            name,
            pieces: self.pieces.clone(),
            last_finished: self.last_finished.get_or_create_owned(&[("worker", name)]),
            begun: self.begun.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone(),
            failing: self.failing.get_or_create_owned(&[("worker", name)]),
        };
        workers.last_finished.set(now());
        workers
    }
}

impl WorkerMetrics {
    /// Records that a piece of work begins.
    pub(super) fn begins(&self) -> BegunPiece {
        BegunPiece(self.lock().insert(now()))
    }

    /// Counts a piece of work that ended now.
    pub(super) fn finished(&self, piece: BegunPiece, outcome: PieceOutcome) {
        self.pieces.get_or_create(&[("worker", self.name), ("outcome", outcome.label())]).inc();
        let mut begun = self.lock();
        begun.remove(piece.0);
        // A worker that hangs shows, although others of its name go on.
        self.last_finished.set(begun.iter().map(|(_, begun)| *begun).fold(now(), f64::min));
    }

    fn lock(&self) -> MutexGuard<'_, Slab<f64>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time in seconds since 1970.
fn now() -> f64 {
    unix_seconds(OffsetDateTime::now_utc())
}
