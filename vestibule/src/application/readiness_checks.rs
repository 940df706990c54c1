//! Readiness checks: what a service itself looks at before it says that it is ready for requests.

use super::{Application, Generation, Live};
use crate::{
    caught::caught_future, cause::reasons, jitter, resources::build_error::BuildError, status::writer::StatusWriter,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The time from the end of one round of checks to the begin of the next one, before a jitter of a fifth of it.
const INTERVAL: Duration = Duration::from_secs(5);

/// The longest time for one check.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The readiness checks of a service. [`Application::readiness`] adds them.
pub struct ReadinessChecks<A: Application>(Vec<ReadinessCheck<A>>);

/// One check: a name, and a function of the service.
pub(crate) struct ReadinessCheck<A: Application> {
    pub(crate) name: &'static str,
    /// `true` if the replica gets no requests while the check fails.
    pub(crate) is_required: bool,
    function: Box<CheckFunction<A>>,
}

type CheckFunction<A> = dyn Fn(Arc<A>) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

impl<A: Application> ReadinessChecks<A> {
    /// Adds a check without which the service cannot do its work: while it fails, `/readyz` answers 503, and the replica
    /// gets no requests.
    ///
    /// If all replicas depend on the same thing, they fail together, and nobody is left to answer. So require only what
    /// belongs to this replica: a cache that must be filled, a file that must be there.
    pub fn required<F, C, E>(&mut self, name: &'static str, check: F)
    where
        F: Fn(Arc<A>) -> C + Send + Sync + 'static,
        C: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.add(name, true, check);
    }

    /// Adds a check without which the service can do a part of its work: while it fails, `/readyz` says `degraded`, with 200.
    pub fn optional<F, C, E>(&mut self, name: &'static str, check: F)
    where
        F: Fn(Arc<A>) -> C + Send + Sync + 'static,
        C: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.add(name, false, check);
    }

    fn add<F, C, E>(&mut self, name: &'static str, is_required: bool, check: F)
    where
        F: Fn(Arc<A>) -> C + Send + Sync + 'static,
        C: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let function = move |service| {
            let checking = check(service);
            async move { checking.await.map_err(|error| reasons(&*error.into())) }.boxed()
        };
        self.0.push(ReadinessCheck { name, is_required, function: Box::new(function) });
    }

    /// Returns the checks of this service.
    ///
    /// # Errors
    /// A bug if two of them have the same name.
    pub(crate) fn of(service: &Arc<A>) -> Result<Self, BuildError> {
        let mut checks = Self(Vec::new());
        A::readiness(service, &mut checks);
        let mut names = BTreeSet::new();
        if checks.iter().all(|check| names.insert(check.name)) {
            Ok(checks)
        } else {
            Err(BuildError::bug("two readiness checks have the same name"))
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ReadinessCheck<A>> {
        self.0.iter()
    }
}

impl<A: Application> fmt::Debug for ReadinessChecks<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|check| check.name)).finish()
    }
}

impl<A: Application> ReadinessCheck<A> {
    /// Runs the check. A panic and a check that does not end within a second are errors.
    async fn run(&self, service: Arc<A>) -> Result<(), String> {
        // The whole check is caught: its function may panic before it returns a future.
        let checking = caught_future(async { (self.function)(service).await });
        match tokio::time::timeout(TIMEOUT, checking).await {
            Ok(Some(result)) => result,
            Ok(None) => Err("it panicked".into()),
            Err(_) => Err(format!("it did not end within {TIMEOUT:?}")),
        }
    }
}

/// Runs the checks of the generation in service again and again, until `stopping` is cancelled. Those of a new generation run
/// at once.
pub(crate) async fn watch_readiness<A: Application>(
    mut live: Live<A>,
    status: StatusWriter,
    stopping: CancellationToken,
) {
    loop {
        let generation = live.generation();
        let round = async {
            // The results of checks that are new in it would be lost before.
            status.until_shown(generation.number).await;
            check_readiness(&generation, &status).await;
            drop(generation);
            tokio::time::sleep(INTERVAL.mul_f64(jitter::factor(0.2))).await;
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            is_live = live.changed() => if !is_live { return },
            () = round => (),
        }
    }
}

/// Runs each check once, all at the same time, and records the results. Returns the errors of those that fail.
pub(crate) async fn check_readiness<A: Application>(
    generation: &Generation<A>,
    status: &StatusWriter,
) -> BTreeMap<&'static str, String> {
    let checking = generation.checks.iter().map(async |check| {
        let result = check.run(generation.service.clone()).await;
        status.check_ended(check.name, result.clone());
        Some((check.name, result.err()?))
    });
    join_all(checking).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
