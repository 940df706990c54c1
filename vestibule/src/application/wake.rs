//! The wait of idle workers: one of them looks for work about once a second, and wakes another if it finds some.

use crate::jitter;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{self, Notify};

/// The time between two looks for work, before a jitter of half of it. All idle workers of one name share it.
const IDLE: Duration = Duration::from_secs(1);

/// A handle that wakes the workers of one name: [`Build::worker_wake`](crate::Build::worker_wake).
#[derive(Clone)]
pub struct WorkerWake(Arc<IdleWorkers>);

impl WorkerWake {
    /// Wakes an idle worker of this process, so that it looks for work at once. If it finds some, it wakes the next one. If
    /// all workers are busy, the first that finds nothing more to do looks once again, so no wake-up is lost.
    ///
    /// Call it after the work is there for others: after the commit of a transaction. Workers of other replicas look by
    /// themselves.
    pub fn wake(&self) {
        self.0.wake_one();
    }
}

impl fmt::Debug for WorkerWake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerWake")
    }
}

/// The idle workers of each name.
#[derive(Default)]
pub(crate) struct WorkerWakes(Mutex<BTreeMap<&'static str, Arc<IdleWorkers>>>);

impl WorkerWakes {
    /// Returns the handle that wakes the workers of this name. They may start later.
    pub(crate) fn of(&self, name: &'static str) -> WorkerWake {
        WorkerWake(self.idle(name))
    }

    pub(super) fn idle(&self, name: &'static str) -> Arc<IdleWorkers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone()
    }
}

/// The idle workers of one name.
#[derive(Default)]
pub(super) struct IdleWorkers {
    /// Keeps one wake-up while no worker is idle.
    woken: Notify,
    /// The idle worker that looks next. It gives this up before it looks: what it finds may take long.
    next_look: sync::Mutex<()>,
}

impl IdleWorkers {
    /// Wakes one idle worker, or the next that becomes idle.
    pub(super) fn wake_one(&self) {
        self.woken.notify_one();
    }

    /// Waits until it is this worker's turn to look for work: it was woken, or its time has come.
    pub(super) async fn wait(&self) {
        let timer = async {
            let _next = self.next_look.lock().await;
            tokio::time::sleep(IDLE.mul_f64(jitter::factor(0.5))).await;
        };
        // If both are ready, a wake-up that is not taken here goes to another worker.
        tokio::select! {
            () = self.woken.notified() => (),
            () = timer => (),
        }
    }
}
