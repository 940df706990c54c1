//! Work that comes in pieces: from a table, say.

use super::{Application, Background, Live};
use crate::backoff::Backoff;
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

/// How long a worker waits that found nothing to do, give or take half of it.
const IDLE: Duration = Duration::from_secs(1);

/// The longest pause of a worker that fails.
const LONGEST: Duration = Duration::from_secs(30);

impl<A: Application> Background<A> {
    /// Starts so many workers. Each does one piece of work after the other, for the service as it is then, so that it takes
    /// up rotations; it looks again after about a second when there was nothing to do (`Ok(false)`), and after ever longer
    /// pauses, 30 s at most, while it fails. The log says once that they fail, and once that they go on. A piece that is
    /// begun when the process is asked to stop is finished; `server.drain` is its grace.
    pub fn work<F, W, E>(&self, name: &'static str, workers: usize, piece: F)
    where
        F: Fn(Arc<A>) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Result<bool, E>> + Send,
        E: fmt::Display + Send,
    {
        let failing = Arc::new(AtomicUsize::new(0));
        for _ in 0..workers {
            let worker = Worker { name, live: self.live(), stopping: self.stopping(), failing: failing.clone() };
            let piece = piece.clone();
            self.spawn(async move { worker.run(piece).await });
        }
    }
}

struct Worker<A: Application> {
    name: &'static str,
    live: Live<A>,
    stopping: CancellationToken,
    /// How many of these workers fail at the moment.
    failing: Arc<AtomicUsize>,
}

impl<A: Application> Worker<A> {
    async fn run<F, W, E>(self, piece: F)
    where
        F: Fn(Arc<A>) -> W,
        W: Future<Output = Result<bool, E>>,
        E: fmt::Display,
    {
        let (mut pauses, mut failed) = (Backoff::capped_at(LONGEST), false);
        while !self.stopping.is_cancelled() {
            // The panic itself is in the log, through the panic hook.
            let done = AssertUnwindSafe(async { piece(self.live.service()).await }).catch_unwind().await;
            let done =
                done.map_err(|_| "it panicked".to_owned()).and_then(|done| done.map_err(|error| error.to_string()));
            self.tell(&mut failed, done.as_ref().err());
            if done.is_ok() {
                pauses = Backoff::capped_at(LONGEST);
            }
            let next = match done {
                Ok(true) => continue,
                Ok(false) => Instant::now() + IDLE.mul_f64(0.5 + fastrand::f64()),
                Err(_) => pauses.next().expect("these pauses have no end"),
            };
            tokio::select! {
                () = self.stopping.cancelled() => (),
                () = tokio::time::sleep_until(next) => (),
            }
        }
    }

    /// The first that fails and the last that goes on speak for all.
    fn tell(&self, failed: &mut bool, error: Option<&String>) {
        match error {
            Some(error) if !std::mem::replace(failed, true) && self.failing.fetch_add(1, Ordering::Relaxed) == 0 => {
                tracing::warn!(worker = self.name, error, "background work fails; it is tried again");
            }
            None if std::mem::take(failed) && self.failing.fetch_sub(1, Ordering::Relaxed) == 1 => {
                tracing::info!(worker = self.name, "background work goes on");
            }
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Build, BuildError, Package,
        config::Config,
        secrets::{
            CredentialSpec, Fetched, Resolver, SecretId, SecretSet, Source, SourceError, Stage, VersionId, Versions,
        },
        testing::Harness,
    };
    use axum::Router;
    use futures_util::future::BoxFuture;
    use sqlx::migrate::Migrator;

    struct Nothing;

    impl SecretSet for Nothing {
        fn specs() -> Vec<CredentialSpec> {
            Vec::new()
        }

        fn resolve(_: &mut Resolver<'_>) -> Option<Self> {
            Some(Self)
        }
    }

    impl Source for Nothing {
        fn fetch<'a>(
            &'a self,
            _: &'a SecretId,
            _: Stage,
            _: Option<&'a VersionId>,
        ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
            Box::pin(async { Ok(Fetched::Absent) })
        }

        fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
            Box::pin(async { Ok(Versions::new()) })
        }
    }

    static NO_MIGRATIONS: Migrator = Migrator::DEFAULT;

    impl Application for Nothing {
        const PACKAGE: Package = Package { name: "nothing", version: "0", migrations: &NO_MIGRATIONS };
        type Settings = ();
        type Secrets = Self;

        async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
            Ok(Self)
        }

        fn routes() -> Router<Arc<Self>> {
            Router::new()
        }
    }

    #[tokio::test]
    async fn a_worker_goes_on_after_failures_and_panics_and_ends_when_the_process_stops() {
        let harness = Harness::<Nothing>::start(Arc::new(Nothing), Config::default()).await.unwrap();
        let stopping = CancellationToken::new();
        let tasks = Background::new(harness.live(), stopping.clone());
        let pieces = Arc::new(AtomicUsize::new(0));
        let done = pieces.clone();
        tasks.work("test", 1, move |_: Arc<Nothing>| {
            let piece = done.fetch_add(1, Ordering::SeqCst);
            assert_ne!(piece, 2, "as a bug before the first await would");
            async move {
                match piece {
                    0 => panic!("as a bug in a service would"),
                    1 => Err("as a database that is away would"),
                    3..10 => Ok(true),
                    _ => Ok(false),
                }
            }
        });
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
