//! What a service's author writes.

mod workers;

use crate::{App, BuildError, Live, config::Settings, resources::Build, secrets::SecretSet};
use axum::Router;
use std::{fmt, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A service: what it holds, how it is built from its credentials, and its routes.
///
/// A value of it belongs to one generation. A rotation builds another one beside it; requests finish on the one they
/// started on.
pub trait Service: Sized + Send + Sync + 'static {
    /// Name, version and migrations: [`app!()`](crate::app!).
    const APP: App;

    /// The `[service]` section of the configuration.
    type Settings: Settings;

    /// The credentials: a struct with `#[derive(SecretSet)]`, one field each.
    type Secrets: SecretSet;

    /// Builds the service. Runs at the start and in each reload that brings something new.
    fn build(cx: &Build<'_, Self>) -> impl Future<Output = Result<Self, BuildError>> + Send;

    /// The routes: plain axum, the service as their state.
    fn routes() -> Router<Arc<Self>>;

    /// Starts what works beside requests. Runs once, after the first generation is in service.
    fn background(tasks: &Background<Self>) {
        let _ = tasks;
    }
}

/// Tasks that work beside requests, for as long as the process lives.
pub struct Background<S: Service> {
    live: Live<S>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl<S: Service> Background<S> {
    pub(crate) fn new(live: Live<S>, stopping: CancellationToken) -> Self {
        Self { live, stopping, tasks: TaskTracker::new() }
    }

    /// Spawns a task. It must end when [`stopping`](Self::stopping) is cancelled; `server.drain` is its grace.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The service as it is now. Ask again for each piece of work: a task that keeps an old one keeps its credentials.
    pub fn live(&self) -> Live<S> {
        self.live.clone()
    }

    /// Cancelled when the process is asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<S: Service> fmt::Debug for Background<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}
