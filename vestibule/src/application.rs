//! The trait that a service implements, and the types that it meets there: its build context, its generations, its
//! background tasks.

mod background;
mod background_metrics;
mod build;
mod readiness_checks;
mod wake;
mod workers;

pub use self::{background::Background, build::Build, readiness_checks::ReadinessChecks, wake::WorkerWake};
pub(crate) use self::{
    background_metrics::BackgroundMetrics,
    readiness_checks::{ReadinessCheck, check_readiness, watch_readiness},
    wake::WorkerWakes,
};

use crate::{
    config::{Config, ServiceSettings},
    generation_usage::GenerationUsage,
    http::tls::Tls,
    package::Package,
    resources::{build_error::BuildError, registry::ResourceRegistry},
    secrets::{held::HeldCredentials, set::SecretSet},
};
use axum::Router;
use std::{fmt, sync::Arc};
use tokio::sync::{Semaphore, watch};

/// A service: what it holds, how it is built from its credentials, and its routes.
///
/// One value of it belongs to one generation. A rotation builds another value beside it. Requests finish on the value
/// that they started on.
pub trait Application: Sized + Send + Sync + 'static {
    /// Name, version and migrations: [`package!()`](crate::package!).
    const PACKAGE: Package;

    /// The `[service]` section of the configuration.
    type Settings: ServiceSettings;

    /// The credentials: a struct with `#[derive(SecretSet)]`, one field per credential.
    type Secrets: SecretSet;

    /// Builds the service. Runs at the start, and in each reload that brings something new.
    fn build(cx: &Build<'_, Self>) -> impl Future<Output = Result<Self, BuildError>> + Send;

    /// Returns the routes: plain axum, with the service as their state.
    fn routes() -> Router<Arc<Self>>;

    /// Starts the work that goes on beside requests. Runs once, after the first generation is in service.
    fn background(tasks: &Background<Self>) {
        let _ = tasks;
    }

    /// Adds the readiness checks of the service. By default there are none: `/readyz` then depends on the age of the
    /// credentials alone.
    ///
    /// Runs once per generation, and the checks follow the generation in service. They run in the background, about every
    /// 5 s and after each rotation, so that a probe of `/readyz` gets the last results at once. A check that panics, or has
    /// not ended after 1 s, fails. A check that is required fails too until it has ended for the first time.
    /// `/readyz`, `/status` and `/metrics` name each check, and the log has each change.
    ///
    /// [`Harness::check_readiness`](crate::testing::Harness::check_readiness) runs them in a test.
    ///
    /// ```
    /// use std::{path::PathBuf, sync::Arc};
    /// # use axum::Router;
    /// # use vestibule::{Application, Build, BuildError, Package, ReadinessChecks, SecretSet};
    /// # #[derive(SecretSet)]
    /// # struct NoSecrets {}
    ///
    /// struct Maps {
    ///     tiles: PathBuf,
    /// }
    ///
    /// impl Application for Maps {
    ///     // …
    /// #   const PACKAGE: Package = Package::new("maps", "1.0.0");
    /// #   type Settings = ();
    /// #   type Secrets = NoSecrets;
    /// #   async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> { unreachable!() }
    /// #   fn routes() -> Router<Arc<Self>> { Router::new() }
    ///     fn readiness(_: &Arc<Self>, checks: &mut ReadinessChecks<Self>) {
    ///         checks.required("tiles", |maps: Arc<Self>| async move {
    ///             // Fails if the volume with the tiles is not mounted.
    ///             tokio::fs::metadata(&maps.tiles).await.map(drop)
    ///         });
    ///     }
    /// }
    /// ```
    fn readiness(service: &Arc<Self>, checks: &mut ReadinessChecks<Self>) {
        let _ = (service, checks);
    }
}

/// The service as built from one set of credentials and one configuration. A request holds the generation that it
/// started on.
pub struct Generation<A: Application> {
    /// The number of the generation, from 1.
    pub number: u64,
    /// The service.
    pub service: Arc<A>,
    /// The service's routes, under the layers that every request passes.
    pub router: Router,
    /// The places for requests in flight, over all generations.
    pub(crate) in_flight: Arc<Semaphore>,
    /// The TLS configuration of the listeners.
    pub(crate) tls: Arc<Tls>,
    pub(crate) config: Arc<Config<A::Settings>>,
    pub(crate) credentials: HeldCredentials,
    pub(crate) resources: ResourceRegistry,
    pub(crate) checks: ReadinessChecks<A>,
    pub(crate) usage: Arc<GenerationUsage>,
    /// The number of handles of the service that the generation has itself: this one, and those in its routes.
    pub(crate) own_handles: usize,
}

impl<A: Application> Generation<A> {
    /// Puts this generation in service, in place of `replaced`.
    pub(crate) fn replace(self: &Arc<Self>, replaced: &Self, live: &watch::Sender<Arc<Self>>) {
        self.resources.publish();
        // Closes the idle connections of the old pool before requests can open some of the new one.
        replaced.resources.retire(&self.resources);
        live.send_replace(self.clone());
    }
}

impl<A: Application> fmt::Debug for Generation<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A handle to the generation in service.
pub struct Live<A: Application>(watch::Receiver<Arc<Generation<A>>>);

impl<A: Application> Live<A> {
    pub(crate) fn new(receiver: watch::Receiver<Arc<Generation<A>>>) -> Self {
        Self(receiver)
    }

    /// Returns the generation in service now. Costs one borrow of the watch channel and one clone of an `Arc`.
    pub fn generation(&self) -> Arc<Generation<A>> {
        self.0.borrow().clone()
    }

    /// Returns the service of the generation in service now.
    pub fn service(&self) -> Arc<A> {
        self.0.borrow().service.clone()
    }

    /// Waits for a generation that this handle has not seen yet. Returns `false` if the process is stopping and there
    /// will be none.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl<A: Application> Clone for Live<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Application> fmt::Debug for Live<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.0.borrow().number).finish()
    }
}
