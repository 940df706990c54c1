//! Help for a service's tests: the service without a process around it, and a secrets manager in memory.

#[cfg(test)]
pub(crate) mod eventually;
#[cfg(test)]
pub(crate) mod idle_service;

mod memory_manager;

pub use memory_manager::MemoryManager;

use crate::{
    application::{Application, Background, Live, check_readiness},
    config::Config,
    exit::Report,
    loader::{LoadScope, Loader},
    reload::{ConfigReader, Reloader},
    resources::breaker::ProbeReason,
    secrets::source::Source,
    status::{Status, reload_record::Trigger, writer::StatusWriter},
    systemd::SystemdNotifier,
    telemetry::{self, Telemetry},
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Subscriber;
use tracing_subscriber::Layer;

/// A service without a process around it, for tests and benchmarks: no files, no listeners. It loads and reloads as the
/// process does, but only when it is told to. [`start_reloading`](Self::start_reloading) gives it all that a process
/// reloads by: signals, polls, retries, and rejected credentials.
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
    pub(crate) reloader: Arc<Reloader<A>>,
    /// The configuration that a signal reads.
    config: watch::Sender<Arc<Config<A::Settings>>>,
    hups: watch::Sender<u64>,
    actor: OnceLock<JoinHandle<()>>,
    stopping: CancellationToken,
    background: OnceLock<Background<A>>,
}

impl<A: Application> Harness<A> {
    /// Checks the settings of the service ([`Application::check`]), and builds the first generation, with the secrets behind
    /// `source`.
    ///
    /// # Errors
    /// The report of a start that fails.
    pub async fn start(source: Arc<dyn Source>, config: Config<A::Settings>) -> Result<Self, Report> {
        config.checked(A::check)?;
        let loader = Loader::new(source);
        let deadline = Instant::now() + config.secrets.deadline;
        let started_with = Arc::new(config);
        let first = Arc::new(loader.first_load(started_with.clone(), deadline).await?);
        first.publish(None, &loader.tracer);
        let config = watch::Sender::new(started_with.clone());
        let configured = config.subscribe();
        let telemetry = Telemetry::detached();
        let reloader = Reloader {
            status: StatusWriter::new(
                Status::new(&A::PACKAGE, &first, loader.last_uses.clone(), loader.regions.clone()),
                &loader.metrics,
                &telemetry,
            ),
            loader,
            config_reader: ConfigReader::new(move || {
                let config = configured.borrow().clone();
                config.checked(A::check)?;
                Ok(config)
            }),
            telemetry,
            live: watch::Sender::new(first),
            systemd: SystemdNotifier::detached(),
            started_with,
        };
        Ok(Self {
            reloader: Arc::new(reloader),
            config,
            hups: watch::Sender::default(),
            actor: OnceLock::new(),
            stopping: CancellationToken::new(),
            background: OnceLock::new(),
        })
    }

    /// Starts the reload actor. From now on the service reloads by itself, as in a process: at a
    /// [`signal`](Self::signal), at each poll, at retries, and if the other side rejects a credential. Does nothing if
    /// it was started.
    ///
    /// ```
    /// use vestibule::{Application, testing::{Harness, MemoryManager}};
    ///
    /// async fn takes_up_a_rotation<A: Application>(harness: Harness<A>, manager: &MemoryManager) {
    ///     harness.start_reloading();
    ///     manager.rotate("payment", "the next key");
    ///     harness.signal();
    ///     assert!(harness.live().changed().await);
    /// }
    /// ```
    pub fn start_reloading(&self) {
        self.actor.get_or_init(|| {
            let (reloader, hups, stopping) = (self.reloader.clone(), self.hups.subscribe(), self.stopping.clone());
            tokio::spawn(async move { reloader.run(hups, stopping).await })
        });
    }

    /// Asks for a reload, as SIGHUP does. It takes place once [`start_reloading`](Self::start_reloading) was called.
    pub fn signal(&self) {
        self.hups.send_modify(|count| *count += 1);
    }

    /// Sets the configuration that the next signal reads, as an edited file does.
    pub fn configure(&self, config: Config<A::Settings>) {
        self.config.send_replace(Arc::new(config));
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
            let background = self.background(self.stopping.clone());
            A::background(&background);
            background
        });
    }

    /// Runs each readiness check of the generation in service once ([`Application::readiness`]), with its limit of 1 s.
    /// Returns the errors of those that fail, by name.
    ///
    /// ```
    /// use vestibule::{Application, testing::Harness};
    ///
    /// async fn is_ready<A: Application>(harness: &Harness<A>) {
    ///     let failing = harness.check_readiness().await;
    ///     assert!(failing.is_empty(), "{failing:?}");
    /// }
    /// ```
    pub async fn check_readiness(&self) -> BTreeMap<&'static str, String> {
        let in_service = self.reloader.live.borrow().clone();
        check_readiness(&in_service, &self.reloader.status).await
    }

    /// Returns the background tasks of the service, none of which was started.
    pub(crate) fn background(&self, stopping: CancellationToken) -> Background<A> {
        let loader = &self.reloader.loader;
        Background::new(self.live(), stopping, loader.background_metrics.clone(), loader.worker_wakes.clone())
    }

    /// Returns a handle to the generation in service.
    pub fn live(&self) -> Live<A> {
        Live::new(self.reloader.live.subscribe())
    }

    /// Reloads now, as a signal does. Returns `true` if a new generation is in service, and `false` if nothing changed.
    ///
    /// # Errors
    /// The report of a reload that fails. The generation in service stays.
    ///
    /// # Panics
    /// If [`start_reloading`](Self::start_reloading) was called, because one reload runs at a time.
    pub async fn reload(&self) -> Result<bool, Report> {
        assert!(self.actor.get().is_none(), "the reload actor runs: use Harness::signal");
        let in_service = self.reloader.live.borrow().clone();
        let config = self.reloader.config_reader.read(&in_service.config).await;
        let (reason, scope) = (ProbeReason::Operator, LoadScope::All);
        self.reloader.reload(Trigger::Signal, reason, scope, 0, &in_service, &config).await.result
    }

    /// Reloads with another configuration. Returns what [`reload`](Self::reload) returns.
    ///
    /// # Errors
    /// As [`reload`](Self::reload).
    ///
    /// # Panics
    /// As [`reload`](Self::reload).
    pub async fn reload_with(&self, config: Config<A::Settings>) -> Result<bool, Report> {
        self.configure(config);
        self.reload().await
    }

    /// Stops as a process does: tells the background tasks to stop, waits for their end, and closes the resources of the
    /// generation in service.
    ///
    /// # Panics
    /// If a background task does not end within `server.drain`.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        if let Some(actor) = self.actor.take() {
            actor.await.expect("the reload actor does not panic");
        }
        let last = self.reloader.live.borrow().clone();
        if let Some(background) = self.background.get() {
            let joined = tokio::time::timeout(last.config.server.drain, background.join()).await;
            assert!(joined.is_ok(), "a background task did not end within server.drain");
        }
        last.resources.close().await;
    }
}

/// Returns the layer of the log, with a thread that drops the lines. For the framework's own benchmarks.
#[doc(hidden)]
pub fn discarding_log<S: Subscriber>() -> impl Layer<S> {
    telemetry::discarding().expect("there is room for a thread")
}

impl<A: Application> fmt::Debug for Harness<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("live", &self.live()).finish_non_exhaustive()
    }
}
