//! Help for a service's tests: the service without a process around it.

use crate::{
    application::{Application, Generation, Live},
    config::Config,
    exit::Report,
    loader::{LoadOutcome, LoadRequest, Loader},
    resources::breaker::ProbeReason,
    secrets::source::Source,
};
use std::{fmt, sync::Arc};
use tokio::{sync::watch, time::Instant};

/// A service without a process around it, for tests and benchmarks: no files, no signals, no listeners. It loads and
/// reloads as the process does, but only when it is told to.
///
/// ```
/// use std::sync::Arc;
/// use vestibule::{Application, config::Config, exit::Report, secrets::Source, testing::Harness};
///
/// async fn reloads<A: Application>(manager: Arc<dyn Source>) -> Result<(), Report> {
///     let harness = Harness::<A>::start(manager, Config::default()).await?;
///     let is_new = harness.reload().await?;
///     assert!(!is_new, "nothing was rotated");
///     harness.stop().await;
///     Ok(())
/// }
/// ```
pub struct Harness<A: Application> {
    loader: Loader<A>,
    live: watch::Sender<Arc<Generation<A>>>,
}

impl<A: Application> Harness<A> {
    /// Builds the first generation, with the secrets behind `source`.
    ///
    /// # Errors
    /// The report of a start that fails.
    pub async fn start(source: Arc<dyn Source>, config: Config<A::Settings>) -> Result<Self, Report> {
        let loader = Loader::new(source);
        let deadline = Instant::now() + config.secrets.deadline;
        let first = loader.first_load(Arc::new(config), deadline).await?;
        first.resources.publish();
        Ok(Self { loader, live: watch::Sender::new(Arc::new(first)) })
    }

    /// Returns a handle to the generation in service.
    pub fn live(&self) -> Live<A> {
        Live::new(self.live.subscribe())
    }

    /// Reloads, as a signal does. Returns `true` if a new generation is in service, and `false` if nothing changed.
    ///
    /// # Errors
    /// The report of a reload that fails. The generation in service stays.
    pub async fn reload(&self) -> Result<bool, Report> {
        let config = self.live.borrow().config.clone();
        self.load(config).await
    }

    /// Reloads with another configuration. Returns what [`reload`](Self::reload) returns.
    ///
    /// # Errors
    /// As [`reload`](Self::reload).
    pub async fn reload_with(&self, config: Config<A::Settings>) -> Result<bool, Report> {
        self.load(Arc::new(config)).await
    }

    /// Closes the resources of the generation in service, as a stop does.
    pub async fn stop(self) {
        let last = self.live.borrow().clone();
        last.resources.close().await;
    }

    async fn load(&self, config: Arc<Config<A::Settings>>) -> Result<bool, Report> {
        let in_service = self.live.borrow().clone();
        let deadline = Instant::now() + config.secrets.deadline;
        let request =
            LoadRequest { config, in_service: Some(&in_service), deadline, probe_reason: ProbeReason::Operator };
        match self.loader.load(request).await.result {
            Ok(LoadOutcome::Built { generation, .. }) => {
                Arc::new(*generation).replace(&in_service, &self.live);
                Ok(true)
            }
            Ok(LoadOutcome::Unchanged) => Ok(false),
            Err(error) => Err(error.report),
        }
    }
}

impl<A: Application> fmt::Debug for Harness<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("live", &self.live()).finish_non_exhaustive()
    }
}
