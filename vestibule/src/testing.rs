//! Help for a service's tests: the service without a process around it, and a secrets manager in memory.

mod memory_manager;

pub use memory_manager::MemoryManager;

use crate::{
    application::{Application, Background, Generation, Live},
    config::Config,
    exit::Report,
    loader::{LoadOutcome, LoadRequest, Loader},
    resources::breaker::ProbeReason,
    secrets::source::Source,
};
use std::{
    fmt,
    sync::{Arc, OnceLock},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// A service without a process around it, for tests and benchmarks: no files, no signals, no listeners. It loads and
/// reloads as the process does, but only when it is told to.
///
/// ```
/// use vestibule::{Application, config::Config, exit::Report, testing::{Harness, MemoryManager}};
///
/// async fn takes_up_a_rotation<A: Application>() -> Result<(), Report> {
///     let manager = MemoryManager::with([("payment", "a key")]);
///     let harness = Harness::<A>::start(manager.clone(), Config::default()).await?;
///     manager.rotate("payment", "the next key");
///     assert!(harness.reload().await?, "a new generation is in service");
///     harness.stop().await;
///     Ok(())
/// }
/// ```
pub struct Harness<A: Application> {
    loader: Loader<A>,
    live: watch::Sender<Arc<Generation<A>>>,
    stopping: CancellationToken,
    background: OnceLock<Background<A>>,
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
        let live = watch::Sender::new(Arc::new(first));
        Ok(Self { loader, live, stopping: CancellationToken::new(), background: OnceLock::new() })
    }

    /// Starts the background tasks of the service ([`Application::background`]), as a process does before it serves. Does
    /// nothing if they were started.
    ///
    /// ```
    /// use vestibule::{Application, testing::Harness};
    ///
    /// async fn sends_what_is_due<A: Application>(harness: Harness<A>) {
    ///     harness.start_background();
    ///     // … wait until the other side has it …
    ///     harness.stop().await;
    /// }
    /// ```
    pub fn start_background(&self) {
        self.background.get_or_init(|| {
            let background = Background::new(self.live(), self.stopping.clone());
            A::background(&background);
            background
        });
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

    /// Stops as a process does: tells the background tasks to stop, waits for their end, and closes the resources of the
    /// generation in service.
    ///
    /// # Panics
    /// If a background task does not end within `server.drain`.
    pub async fn stop(self) {
        let last = self.live.borrow().clone();
        self.stopping.cancel();
        if let Some(background) = self.background.get() {
            let joined = tokio::time::timeout(last.config.server.drain, background.join()).await;
            assert!(joined.is_ok(), "a background task did not end within server.drain");
        }
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
