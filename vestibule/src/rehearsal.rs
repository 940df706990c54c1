//! A service without a process around it.

use crate::{
    config::Config,
    exit::Report,
    generation::{Generation, Live},
    resources::Occasion,
    road::{End, Errand, Road},
    secrets::Source,
    service::Service,
};
use std::{fmt, sync::Arc};
use tokio::{sync::watch, time::Instant};

/// A service without a process around it, for tests and benchmarks: no files, no signals, no listeners. It walks the
/// same road, when whoever holds it says so.
pub struct Rehearsal<S: Service> {
    road: Road<S>,
    live: watch::Sender<Arc<Generation<S>>>,
}

impl<S: Service> Rehearsal<S> {
    /// Builds the first generation, with the secrets behind `source`.
    ///
    /// # Errors
    /// As a start that fails.
    pub async fn start(source: Arc<dyn Source>, config: Config<S::Settings>) -> Result<Self, Report> {
        let road = Road::new(source);
        let deadline = Instant::now() + config.secrets.deadline;
        let first = road.first(Arc::new(config), deadline).await?;
        first.resources.publish();
        Ok(Self { road, live: watch::Sender::new(Arc::new(first)) })
    }

    /// The generation in service, whichever that is.
    pub fn live(&self) -> Live<S> {
        Live::new(self.live.subscribe())
    }

    /// Walks the road again, as a signal does. `true`: what it brought is in service; `false`: there was nothing new.
    ///
    /// # Errors
    /// What a reload is kept for. The generation in service stays.
    pub async fn reload(&self) -> Result<bool, Report> {
        let config = self.live.borrow().config.clone();
        self.walk(config).await
    }

    /// [`reload`](Self::reload) with another configuration.
    ///
    /// # Errors
    /// As [`reload`](Self::reload).
    pub async fn reload_with(&self, config: Config<S::Settings>) -> Result<bool, Report> {
        self.walk(Arc::new(config)).await
    }

    /// Closes what the generation in service was built with, as a stop does.
    pub async fn stop(self) {
        let last = self.live.borrow().clone();
        last.resources.close().await;
    }

    async fn walk(&self, config: Arc<Config<S::Settings>>) -> Result<bool, Report> {
        let held = self.live.borrow().clone();
        let deadline = Instant::now() + config.secrets.deadline;
        let errand = Errand { config, held: Some(&held), deadline, occasion: Occasion::Asked };
        match self.road.walk(errand).await.end {
            Ok(End::Built { generation, .. }) => {
                Arc::new(*generation).succeed(&held, &self.live);
                Ok(true)
            }
            Ok(End::Unchanged) => Ok(false),
            Err(stuck) => Err(stuck.report),
        }
    }
}

impl<S: Service> fmt::Debug for Rehearsal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rehearsal").field("live", &self.live()).finish_non_exhaustive()
    }
}
