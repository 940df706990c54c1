//! A process that serves, from the start of its listeners to its stop.

use super::command_error::CommandError;
use crate::{
    admin,
    application::{Application, Background, Live, watch_readiness},
    config::{Config, layers::Sources},
    exit::{Exit, Fault, Phase, Report},
    expiry,
    http::{
        door::Door,
        listen::{self, BoundListeners, HttpServer},
    },
    loader::Loader,
    metrics::Counter,
    reload::Reloader,
    secrets::set::SecretSet,
    signals::Signals,
    status::writer::StatusWriter,
    systemd,
    telemetry::Telemetry,
};
use prometheus_client::metrics::family::Family;
use std::{io, os::unix, sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// The time that the admin listener has to finish after everything else has ended.
const ADMIN_GRACE: Duration = Duration::from_millis(500);

/// The parts of the start that the reload actor goes on with.
pub(super) struct ReloaderParts<A: Application> {
    pub(super) loader: Loader<A>,
    pub(super) sources: Sources,
    pub(super) telemetry: Telemetry,
    pub(super) config: Arc<Config<A::Settings>>,
}

/// A process that serves.
pub(super) struct ServingProcess<A: Application> {
    public: HttpServer,
    admin: HttpServer,
    commands: HttpServer<unix::net::SocketAddr>,
    reloader: JoinHandle<()>,
    live: Live<A>,
    status: StatusWriter,
    background: Background<A>,
    stopping: CancellationToken,
}

impl<A: Application> ServingProcess<A> {
    /// Starts the listeners, the service's background tasks and the reload actor.
    ///
    /// # Errors
    /// If a listener cannot be registered with the runtime.
    pub(super) fn start(
        listeners: BoundListeners<A>,
        status: StatusWriter,
        signals: Signals,
        parts: ReloaderParts<A>,
    ) -> io::Result<Self> {
        tracing::info!(
            server.address = %listeners.public.local_addr()?,
            admin.address = %listeners.admin.local_addr()?,
            "listening"
        );
        listeners.live.borrow().resources.publish();
        let live = Live::new(listeners.live.subscribe());
        let metrics = &parts.loader.metrics;
        let failed_handshakes = Family::<[(&str, &str); 1], Counter>::default();
        let help = "Connections that ended before their handshake was complete";
        metrics.register("vestibule_tls_handshakes_failed", help, failed_handshakes.clone());
        let failed_at = |listener| failed_handshakes.get_or_create_owned(&[("listener", listener)]);

        let in_service = live.clone();
        let admin_tls = move || in_service.generation().tls.admin.clone();
        let history = parts.loader.request_history.clone();
        let admin_routes = admin::router(&status, signals.hups.clone(), metrics.clone(), history);
        let commands = listen::serve_commands(listeners.commands, admin_routes.clone());
        let admin = listen::serve(listeners.admin, admin_tls, failed_at("admin"), admin_routes)?;

        let in_service = live.clone();
        let public_tls = move || in_service.generation().tls.public.clone();
        let door = Door::new(live.clone());
        let public = listen::serve(listeners.public, public_tls, failed_at("public"), door)?;

        tokio::spawn(expiry::watch(live.clone(), signals.stopping.clone()));
        tokio::spawn(watch_readiness(live.clone(), status.clone(), signals.stopping.clone()));
        let background = Background::new(
            live.clone(),
            signals.stopping.clone(),
            parts.loader.background_metrics.clone(),
            parts.loader.worker_wakes.clone(),
        );
        A::background(&background);
        let read_config = move || {
            let config = Config::load(&parts.sources, A::PACKAGE.name, &A::Secrets::specs())?;
            Ok(Arc::new(config))
        };
        let reloader = Reloader {
            loader: parts.loader,
            read_config: Box::new(read_config),
            telemetry: parts.telemetry,
            live: listeners.live,
            status: status.clone(),
            started_with: parts.config,
        };
        let (hups, stopping_reloads) = (signals.hups, signals.stopping.clone());
        let reloader = tokio::spawn(async move { reloader.run(hups, stopping_reloads).await });
        Ok(Self { public, admin, commands, reloader, live, status, background, stopping: signals.stopping })
    }

    /// Waits until the process is asked to stop, then stops it.
    ///
    /// # Errors
    /// If a listener or the reload actor ends before that. The process stops then too.
    pub(super) async fn run_until_stopped(mut self) -> Result<(), CommandError> {
        let failure = tokio::select! {
            () = self.stopping.cancelled() => None,
            error = self.public.failed() => Some(unexpected_end("the public listener", &error.to_string())),
            error = self.admin.failed() => Some(unexpected_end("the admin listener", &error.to_string())),
            error = self.commands.failed() => Some(unexpected_end("the command socket", &error.to_string())),
            _ = &mut self.reloader => {
                // The reload actor also ends when the process is asked to stop.
                if self.stopping.is_cancelled() {
                    None
                } else {
                    Some(unexpected_end("the reload actor", "it panicked"))
                }
            }
        };
        let format = self.live.generation().config.telemetry.format;
        self.stop().await;
        match failure {
            None => Ok(()),
            Some(report) => Err(CommandError { report, format }),
        }
    }

    /// Stops in this order: readiness goes off; after `server.linger` the public listener stops accepting; requests in
    /// flight and background tasks finish; the pools close. The admin listener and the command socket answer to the
    /// end.
    async fn stop(mut self) {
        tracing::info!("stopping");
        systemd::stopping();
        self.stopping.cancel();
        self.status.stopping();
        // The reload actor may still be publishing. It ends at its next await.
        if !self.reloader.is_finished() {
            let _ = (&mut self.reloader).await;
        }
        let last = self.live.generation();
        let drain = last.config.server.drain;
        tokio::time::sleep(last.config.server.linger).await;
        let deadline = Instant::now() + drain;
        self.public.stop(drain).await;
        if tokio::time::timeout_at(deadline, self.background.join()).await.is_err() {
            tracing::warn!("background tasks did not end within server.drain");
        }
        last.resources.close().await;
        tokio::join!(self.admin.stop(ADMIN_GRACE), self.commands.stop(ADMIN_GRACE));
        tracing::info!("stopped");
    }
}

/// Returns the report of a part that ended while the process served. It must run as long as the process does.
fn unexpected_end(part: &str, problem: &str) -> Report {
    let fault =
        Fault::new(Exit::Bug, part, format!("it ended: {problem}"), "see the log before this event; this is a bug");
    Report::of(Phase::Serve, fault)
}
