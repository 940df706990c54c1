//! A generation: the service as built from one set of credentials and one configuration.

use crate::{config::Config, http::Tls, resources::Resources, secrets::Keyring, service::Service};
use axum::Router;
use std::{fmt, sync::Arc};
use tokio::sync::{Semaphore, watch};

/// The service as built from one set of credentials. Requests hold the one they started on.
pub struct Generation<S: Service> {
    /// Counts from 1.
    pub number: u64,
    /// The service.
    pub service: Arc<S>,
    /// Its routes, under what every request passes.
    pub router: Router,
    /// Requests that may be in flight, over all generations.
    pub(crate) in_flight: Arc<Semaphore>,
    /// What handshakes need.
    pub(crate) tls: Arc<Tls>,
    pub(crate) config: Arc<Config<S::Settings>>,
    pub(crate) keyring: Keyring,
    pub(crate) resources: Resources,
}

impl<S: Service> Generation<S> {
    /// Puts this one in service, in the place of `replaced`.
    pub(crate) fn succeed(self: &Arc<Self>, replaced: &Self, live: &watch::Sender<Arc<Self>>) {
        self.resources.publish();
        // Before the new one is seen: it gets no connection that would stand beside an idle one of the old.
        replaced.resources.retire(&self.resources);
        live.send_replace(self.clone());
    }
}

/// [`Generation`], whatever its service.
pub(crate) trait Erased: Send + Sync {
    fn resources(&self) -> &Resources;
}

impl<S: Service> Erased for Generation<S> {
    fn resources(&self) -> &Resources {
        &self.resources
    }
}

impl<S: Service> fmt::Debug for Generation<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The generation in service, whichever that is.
pub struct Live<S: Service>(watch::Receiver<Arc<Generation<S>>>);

impl<S: Service> Live<S> {
    pub(crate) fn new(receiver: watch::Receiver<Arc<Generation<S>>>) -> Self {
        Self(receiver)
    }

    /// The generation in service now. Costs one borrow of the watch channel and one clone of an `Arc`.
    pub fn generation(&self) -> Arc<Generation<S>> {
        self.0.borrow().clone()
    }

    /// The service of the generation in service now.
    pub fn service(&self) -> Arc<S> {
        self.0.borrow().service.clone()
    }

    /// Waits for another generation than those this handle has seen. `false`: the process is stopping, and there will
    /// be none.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl<S: Service> Clone for Live<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Service> fmt::Debug for Live<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.0.borrow().number).finish()
    }
}
