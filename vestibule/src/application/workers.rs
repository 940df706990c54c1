//! Workers: background tasks that do one piece of work after the other, from a table for example.

use super::{Application, Background, Live};
use crate::{backoff::Backoff, jitter};
use futures_util::FutureExt;
use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The pause of a worker that found nothing to do, before a jitter of half of it.
const IDLE: Duration = Duration::from_secs(1);

/// The longest pause of a worker that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl<A: Application> Background<A> {
    /// Starts this many workers. Each does one piece of work after the other, always with the service that is in service
    /// at that moment, so that it takes up rotations.
    ///
    /// `piece` returns `Ok(true)` if it did something, and the worker goes on at once. After `Ok(false)`, nothing to do, it
    /// looks again after about a second. While `piece` fails or panics, it looks again after ever longer pauses, up to 30 s.
    /// The log says once that the workers fail, and once that they work again. A piece that has begun when the process is
    /// asked to stop is finished; `server.drain` is its grace period.
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
        E: fmt::Display + Send,
    {
        let failing = Arc::new(AtomicUsize::new(0));
        for _ in 0..workers {
            let worker =
                Worker { name, deadline, live: self.live(), stopping: self.stopping(), failing: failing.clone() };
            let piece = piece.clone();
            self.spawn(async move { worker.run(piece).await });
        }
    }
}

struct Worker<A: Application> {
    name: &'static str,
    deadline: fn(&A) -> Duration,
    live: Live<A>,
    stopping: CancellationToken,
    /// The number of workers of this name that fail at the moment.
    failing: Arc<AtomicUsize>,
}

impl<A: Application> Worker<A> {
    async fn run<F, W, E>(self, piece: F)
    where
        F: Fn(Arc<A>) -> W,
        W: Future<Output = Result<bool, E>>,
        E: fmt::Display,
    {
        let mut pauses = Backoff::capped_at(LONGEST_PAUSE);
        let mut is_failing = false;
        while !self.stopping.is_cancelled() {
            let result = self.do_one(&piece).await;
            self.log_change(&mut is_failing, result.as_ref().err());
            let next = match result {
                Ok(did_something) => {
                    pauses = Backoff::capped_at(LONGEST_PAUSE);
                    if did_something {
                        continue;
                    }
                    Instant::now() + IDLE.mul_f64(jitter::factor(0.5))
                }
                Err(_) => pauses.next().expect("these pauses have no end"),
            };
            tokio::select! {
                () = self.stopping.cancelled() => (),
                () = tokio::time::sleep_until(next) => (),
            }
        }
    }

    /// Does one piece of work. An error becomes its text.
    async fn do_one<F, W, E>(&self, piece: &F) -> Result<bool, String>
    where
        F: Fn(Arc<A>) -> W,
        W: Future<Output = Result<bool, E>>,
        E: fmt::Display,
    {
        // The whole piece is caught: the service's own code also computes the deadline.
        let piece = AssertUnwindSafe(async {
            let generation = self.live.generation();
            let (service, _guard) = (generation.service.clone(), generation.usage.piece_of_work(self.name));
            drop(generation);
            let deadline = (self.deadline)(&service);
            match tokio::time::timeout(deadline, piece(service)).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("it did not end within {deadline:?}")),
            }
        });
        match piece.catch_unwind().await {
            Ok(result) => result,
            // The panic hook has logged the panic itself.
            Err(_) => Err("it panicked".into()),
        }
    }

    /// Logs the first failure, and that all workers of this name work again.
    fn log_change(&self, is_failing: &mut bool, error: Option<&String>) {
        let was_failing = std::mem::replace(is_failing, error.is_some());
        if was_failing == *is_failing {
            return;
        }
        if let Some(error) = error {
            let others = self.failing.fetch_add(1, Ordering::Relaxed);
            if others == 0 {
                tracing::warn!(worker = self.name, error, "background work fails; trying again");
            }
        } else {
            let failing = self.failing.fetch_sub(1, Ordering::Relaxed);
            if failing == 1 {
                tracing::info!(worker = self.name, "background work succeeds again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        application::Build,
        config::Config,
        openapi::OpenApiRouter,
        package::Package,
        resources::build_error::BuildError,
        secrets::{resolver::Resolver, set::SecretSet, spec::CredentialSpec},
        testing::{Harness, MemoryManager},
    };

    struct Nothing;

    impl SecretSet for Nothing {
        fn specs() -> Vec<CredentialSpec> {
            Vec::new()
        }

        fn resolve(_: &mut Resolver<'_>) -> Option<Self> {
            Some(Self)
        }
    }

    impl Application for Nothing {
        const PACKAGE: Package = Package::new("nothing", "0");
        type Settings = ();
        type Secrets = Self;

        async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
            Ok(Self)
        }

        fn routes() -> OpenApiRouter<Arc<Self>> {
            OpenApiRouter::new()
        }
    }

    #[tokio::test]
    async fn a_worker_goes_on_after_failures_and_panics_and_ends_when_the_process_stops() {
        let harness = Harness::<Nothing>::start(MemoryManager::new(), Config::default()).await.unwrap();
        let stopping = CancellationToken::new();
        let tasks = Background::new(harness.live(), stopping.clone());
        let pieces = Arc::new(AtomicUsize::new(0));
        let done = pieces.clone();
        tasks.work(
            "test",
            1,
            |_| Duration::from_millis(50),
            move |_: Arc<Nothing>| {
                let piece = done.fetch_add(1, Ordering::SeqCst);
                assert_ne!(piece, 2, "as a bug before the first await would");
                async move {
                    match piece {
                        0 => panic!("as a bug in a service would"),
                        1 => Err("as a database that is away would"),
                        3 => std::future::pending().await,
                        4..10 => Ok(true),
                        _ => Ok(false),
                    }
                }
            },
        );
        let eleven = async {
            while pieces.load(Ordering::SeqCst) < 11 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), eleven).await.expect("it goes on");
        stopping.cancel();
        tokio::time::timeout(IDLE * 9 / 10, tasks.join()).await.expect("it does not sleep on");
        assert!(pieces.load(Ordering::SeqCst) < 20, "nothing to do is waited for");
    }
}
