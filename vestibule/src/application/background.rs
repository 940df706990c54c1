//! The tasks that work beside requests, and their supervision.

use super::{Application, Live, background_metrics::BackgroundMetrics, wake::WorkerWakes};
use crate::{backoff::Backoff, caught::caught_future, metrics::Counter};
use std::{fmt, pin::pin, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The longest pause before a task that ended is started again. A task that runs for this long counts as running.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tasks that work beside requests, for as long as the process lives.
pub struct Background<A: Application> {
    pub(super) live: Live<A>,
    pub(super) stopping: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) metrics: BackgroundMetrics,
    pub(super) wakes: Arc<WorkerWakes>,
}

impl<A: Application> Background<A> {
    pub(crate) fn new(
        live: Live<A>,
        stopping: CancellationToken,
        metrics: BackgroundMetrics,
        wakes: Arc<WorkerWakes>,
    ) -> Self {
        Self { live, stopping, tasks: TaskTracker::new(), metrics, wakes }
    }

    /// Starts a task that runs until the process stops. `start` gets a handle to the generation in service, and a token that
    /// is cancelled when the process stops, after `server.linger`. The task must end then; `server.drain` is its grace period.
    ///
    /// If the task panics or ends before that, it is started again, after ever longer pauses of up to 30 s. The log says so
    /// once, and says once that it runs again: it has run for 30 s. `/metrics` counts each panic and each new start by
    /// `name`.
    ///
    /// Ask `live` again for each piece of work: a task that keeps an old generation keeps its credentials. For work that
    /// comes in pieces, use [`work`](Self::work).
    ///
    /// ```
    /// use vestibule::{Application, Background};
    ///
    /// fn background<A: Application>(tasks: &Background<A>) {
    ///     tasks.spawn("greeter", |mut live, stopping| async move {
    ///         loop {
    ///             println!("hello, generation {}", live.generation().number);
    ///             tokio::select! {
    ///                 () = stopping.cancelled() => return,
    ///                 _ = live.changed() => (),
    ///             }
    ///         }
    ///     });
    /// }
    /// ```
    pub fn spawn<F, T>(&self, name: &'static str, start: F)
    where
        F: Fn(Live<A>, CancellationToken) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let task = SupervisedTask {
            name,
            live: self.live.clone(),
            stopping: self.stopping.clone(),
            restarts: self.metrics.restarts(name),
            panics: self.metrics.panics(name),
        };
        self.tasks.spawn(async move { task.run(start).await });
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<A: Application> fmt::Debug for Background<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

/// A task that is started again if it ends.
struct SupervisedTask<A: Application> {
    name: &'static str,
    live: Live<A>,
    stopping: CancellationToken,
    restarts: Counter,
    panics: Counter,
}

impl<A: Application> SupervisedTask<A> {
    /// Runs the task until the process stops.
    async fn run<F, T>(self, start: F)
    where
        F: Fn(Live<A>, CancellationToken) -> T,
        T: Future<Output = ()>,
    {
        let mut pauses = Backoff::capped_at(LONGEST_PAUSE);
        let mut is_failing = false;
        loop {
            // The start is caught too: it is the service's own code.
            let mut running = pin!(caught_future(async { start(self.live.clone(), self.stopping.clone()).await }));
            let ended = if let Ok(ended) = tokio::time::timeout(LONGEST_PAUSE, &mut running).await {
                ended
            } else {
                pauses = Backoff::capped_at(LONGEST_PAUSE);
                if std::mem::take(&mut is_failing) {
                    tracing::info!(task = self.name, "a background task runs again");
                }
                running.await
            };
            let has_panicked = ended.is_none();
            self.panics.inc_by(has_panicked.into());
            if self.stopping.is_cancelled() {
                return;
            }
            if !std::mem::replace(&mut is_failing, true) {
                tracing::warn!(
                    task = self.name,
                    panicked = has_panicked,
                    "a background task ended before the process stops; starting it again, after ever longer pauses"
                );
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = pauses.wait() => self.restarts.inc(),
            };
        }
    }
}
