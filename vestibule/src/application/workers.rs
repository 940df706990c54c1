//! Workers: background tasks that do one piece of work after the other, from a table for example.

use super::{
    Application, Background, Live,
    background_metrics::{PieceOutcome, WorkerMetrics},
    wake::IdleWorkers,
};
use crate::{backoff::Backoff, caught::caught_future, cause::reasons};
use std::{error::Error, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The longest pause of a worker that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl<A: Application> Background<A> {
    /// Starts this many workers. Each does one piece of work after the other, always with the service that is in service
    /// at that moment, so that it takes up rotations.
    ///
    /// `piece` returns `Ok(true)` if it did something. Then the worker goes on at once, and wakes another one. It returns
    /// `Ok(false)` if there was nothing to do. While all workers of this name are idle, one of them looks again about once a
    /// second, whatever their number: so give each kind of work a name of its own. [`Build::worker_wake`](crate::Build::worker_wake) lets a request wake them at once.
    ///
    /// While `piece` fails or panics, the worker tries again after ever longer pauses, up to 30 s. The log says once that the
    /// workers fail, and once that they work again. When the process stops, workers go on for `server.linger`: requests may
    /// still bring work. A piece that has begun then is finished; `server.drain` is its grace period. `/metrics` counts pieces
    /// by their outcome, and has the time at which the last one ended.
    ///
    /// `deadline` returns the longest time for one piece with this service. A piece that takes longer is dropped, and
    /// counts as failed. So it also bounds the time for which a piece keeps replaced credentials in use. `/status` names the
    /// worker while one of its pieces uses a replaced generation.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// use vestibule::{Application, Background};
    ///
    /// async fn send_next_mail<A>(_: Arc<A>) -> Result<bool, sqlx::Error> {
    ///     Ok(false)
    /// }
    ///
    /// fn background<A: Application>(tasks: &Background<A>) {
    ///     tasks.work("mail", 2, |_| Duration::from_secs(30), send_next_mail);
    /// }
    /// ```
    pub fn work<F, W, E>(&self, name: &'static str, workers: usize, deadline: fn(&A) -> Duration, piece: F)
    where
        F: Fn(Arc<A>) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Result<bool, E>> + Send,
        E: Into<Box<dyn Error + Send + Sync>> + Send,
    {
        let (idle, metrics) = (self.wakes.idle(name), self.metrics.of_workers(name));
        // The first look, for what was there before.
        idle.wake_one();
        for _ in 0..workers {
            let worker = Worker {
                name,
                deadline,
                live: self.live.clone(),
                stopping: self.stopping.clone(),
                idle: idle.clone(),
                metrics: metrics.clone(),
            };
            let piece = piece.clone();
            self.tasks.spawn(async move { worker.run(piece).await });
        }
    }
}

struct Worker<A: Application> {
    name: &'static str,
    deadline: fn(&A) -> Duration,
    live: Live<A>,
    stopping: CancellationToken,
    idle: Arc<IdleWorkers>,
    metrics: WorkerMetrics,
}

impl<A: Application> Worker<A> {
    /// Works until the process stops.
    async fn run<F, W, E>(self, piece: F)
    where
        F: Fn(Arc<A>) -> W,
        W: Future<Output = Result<bool, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        // The pauses of a worker that fails.
        let mut pauses: Option<Backoff> = None;
        let mut did_something = false;
        while !self.stopping.is_cancelled() {
            if !did_something {
                tokio::select! {
                    () = self.stopping.cancelled() => return,
                    () = self.pause(&mut pauses) => (),
                }
            }
            let result = self.do_one(&piece).await;
            self.log_change(pauses.is_some(), result.as_ref().err());
            did_something = matches!(result, Ok(true));
            if did_something {
                // There may be more.
                self.idle.wake_one();
            }
            if result.is_ok() {
                pauses = None;
            } else {
                pauses.get_or_insert_with(|| Backoff::capped_at(LONGEST_PAUSE));
            }
        }
    }

    async fn pause(&self, pauses: &mut Option<Backoff>) {
        match pauses {
            None => self.idle.wait().await,
            Some(pauses) => drop(pauses.wait().await),
        }
    }

    /// Does one piece of work, and counts it. An error becomes its text.
    async fn do_one<F, W, E>(&self, piece: &F) -> Result<bool, String>
    where
        F: Fn(Arc<A>) -> W,
        W: Future<Output = Result<bool, E>>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let begun = self.metrics.begins();
        // The whole piece is caught: the service's own code also computes the deadline.
        let piece = caught_future(async {
            let generation = self.live.generation();
            let (service, _guard) = (generation.service.clone(), generation.usage.piece_of_work(self.name));
            drop(generation);
            let deadline = (self.deadline)(&service);
            match tokio::time::timeout(deadline, piece(service)).await {
                Ok(Ok(true)) => (PieceOutcome::Done, Ok(true)),
                Ok(Ok(false)) => (PieceOutcome::Nothing, Ok(false)),
                Ok(Err(error)) => (PieceOutcome::Failed, Err(reasons(&*error.into()))),
                Err(_) => (PieceOutcome::Timeout, Err(format!("it did not end within {deadline:?}"))),
            }
        });
        let (outcome, result) = match piece.await {
            Some(ended) => ended,
            None => (PieceOutcome::Panicked, Err("it panicked".into())),
        };
        self.metrics.finished(begun, outcome);
        result
    }

    /// Logs the first failure, and that all workers of this name work again.
    fn log_change(&self, was_failing: bool, error: Option<&String>) {
        match error {
            Some(error) if !was_failing => {
                let others = self.metrics.failing.inc();
                if others == 0 {
                    tracing::warn!(worker = self.name, error, "background work fails; trying again");
                }
            }
            None if was_failing => {
                let failing = self.metrics.failing.dec();
                if failing == 1 {
                    tracing::info!(worker = self.name, "background work succeeds again");
                }
            }
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests;
