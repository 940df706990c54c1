//! A process that serves, from the start of its listeners to its stop.

use super::command_error::CommandError;
use crate::{
    admin,
    application::{Application, Background, Live, watch_readiness},
    config::Config,
    debug_tokens,
    exit::{Exit, Fault, Phase, Report},
    expiry_warnings,
    http::{
        connections::ConnectionMetrics,
        door::Door,
        listen::BoundListeners,
        policy::{AdminPolicy, CommandPolicy, PublicPolicy},
        serve::HttpServer,
    },
    leases,
    loader::Loader,
    openapi::page,
    reload::{ConfigReader, Reloader},
    remote_reload,
    signals::Signals,
    status::writer::StatusWriter,
    systemd::SystemdNotifier,
    telemetry::Telemetry,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// The time that the admin listener and the helper tasks have to finish after everything else has ended.
const ADMIN_GRACE: Duration = Duration::from_millis(500);

/// The longest time for which the stop waits until the spans that have ended are sent.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The longest time for which the stop waits for the reload actor.
const RELOADER_LIMIT: Duration = Duration::from_secs(2);

/// The parts of the start that the reload actor goes on with.
pub(super) struct ReloaderParts<A: Application> {
    pub(super) loader: Loader<A>,
    pub(super) config_reader: ConfigReader<A>,
    pub(super) telemetry: Telemetry,
    pub(super) started_with: Arc<Config<A::Settings>>,
}

/// A process that serves.
pub(super) struct ServingProcess<A: Application> {
    public: HttpServer,
    admin: HttpServer,
    commands: HttpServer,
    reloader: JoinHandle<()>,
    live: Live<A>,
    status: StatusWriter,
    background: Background<A>,
    signals: Signals,
    /// A token that is cancelled after `server.linger`. Until then, everything goes on: reloads, background tasks and helpers.
    draining: CancellationToken,
    /// The tasks that help to serve. They last as long as the process.
    helpers: JoinSet<()>,
    systemd: SystemdNotifier,
    /// The task that sends spans, and the token that ends it.
    exporting: (AbortOnDropHandle<()>, CancellationToken),
}

impl<A: Application> ServingProcess<A> {
    /// Starts the listeners, the service's background tasks and the reload actor.
    pub(super) fn start(
        listeners: BoundListeners<A>,
        status: StatusWriter,
        signals: Signals,
        parts: ReloaderParts<A>,
    ) -> Self {
        tracing::info!(
            server.address = listeners.public.address().map(tracing::field::display),
            admin.address = listeners.admin.address().map(tracing::field::display),
            "listening"
        );
        listeners.live.borrow().publish(None, &parts.loader.tracer);
        let live = Live::new(listeners.live.subscribe());
        let metrics = &parts.loader.metrics;
        parts.telemetry.register(metrics);
        let connections = ConnectionMetrics::register(metrics);
        let history = parts.loader.request_history.clone();
        let routes = admin::router(&status, signals.hups.clone(), metrics.clone(), history);
        let routes = routes.merge(page::router(live.clone()));
        let policy = CommandPolicy(live.clone());
        let commands_routes = routes.clone().merge(debug_tokens::router(live.clone()));
        let commands = HttpServer::start("commands", listeners.commands, policy, &connections, commands_routes);
        let (requests, last_uses) = (parts.loader.reload_requests.clone(), parts.loader.last_uses.clone());
        let routes = routes.merge(remote_reload::router(live.clone(), &status, requests, last_uses, metrics));
        let admin = HttpServer::start("admin", listeners.admin, AdminPolicy(live.clone()), &connections, routes);
        let (policy, door) = (PublicPolicy(live.clone()), Door::new(live.clone()));
        let public = HttpServer::start("public", listeners.public, policy, &connections, door);

        let mut helpers = JoinSet::new();
        let systemd = SystemdNotifier::start(&mut helpers);
        let draining = CancellationToken::new();
        helpers.spawn(expiry_warnings::watch(live.clone(), draining.clone()));
        helpers.spawn(leases::watch(live.clone(), parts.loader.reload_requests.clone(), draining.clone()));
        helpers.spawn(watch_readiness(live.clone(), status.clone(), draining.clone()));
        let background = Background::new(
            live.clone(),
            draining.clone(),
            parts.loader.background_metrics.clone(),
            parts.loader.worker_wakes.clone(),
        );
        A::background(&background);
        let end_of_export = CancellationToken::new();
        let of_live = live.clone();
        let exporter = move || of_live.generation().exporter.clone();
        let exporting = tokio::spawn(parts.loader.tracer.clone().export(exporter, end_of_export.clone()));
        let exporting = (AbortOnDropHandle::new(exporting), end_of_export);
        let reloader = Reloader {
            loader: parts.loader,
            config_reader: parts.config_reader,
            telemetry: parts.telemetry,
            live: listeners.live,
            status: status.clone(),
            systemd: systemd.clone(),
            started_with: parts.started_with,
        };
        let (hups, end_of_reloads) = (signals.hups.clone(), draining.clone());
        let reloader = tokio::spawn(async move { reloader.run(hups, end_of_reloads).await });
        Self {
            public,
            admin,
            commands,
            reloader,
            live,
            status,
            background,
            signals,
            draining,
            helpers,
            systemd,
            exporting,
        }
    }

    /// Tells systemd that the process serves.
    pub(super) fn notify_ready(&self) {
        self.systemd.ready();
    }

    /// Waits until the process is asked to stop, then stops it: readiness goes off, and each connection ends with its next
    /// response. The rest goes on for `server.linger`.
    ///
    /// # Errors
    /// If a listener or the reload actor ends before that is over. The process stops then too.
    pub(super) async fn run_until_stopped(mut self) -> Result<(), CommandError> {
        let stopping = self.signals.stopping.clone();
        let mut failure = self.failure_before(stopping.cancelled()).await;
        self.signals.begin_stop();
        tracing::info!("stopping");
        self.systemd.stopping();
        self.status.stopping();
        self.public.linger();
        let end_of_linger = Instant::now() + self.live.generation().config.server.linger;
        if failure.is_none() {
            failure = self.failure_before(sleep_until(end_of_linger)).await;
        }
        // The load balancers need this time also if a part has failed.
        sleep_until(end_of_linger).await;
        let format = self.live.generation().config.telemetry.format;
        self.drain().await;
        match failure {
            None => Ok(()),
            Some(report) => Err(CommandError { report, format }),
        }
    }

    /// Waits for `end`. Returns the report of a part that ended before.
    async fn failure_before(&mut self, end: impl Future<Output = ()>) -> Option<Report> {
        let part = tokio::select! {
            () = end => return None,
            () = self.public.failed() => "the public listener",
            () = self.admin.failed() => "the admin listener",
            () = self.commands.failed() => "the command socket",
            _ = &mut self.reloader => "the reload actor",
        };
        Some(unexpected_end(part))
    }

    /// Ends the process in this order: reloads end, workers begin no further piece of work, and the public listener stops
    /// accepting; requests in flight and background tasks finish; the pools close. The admin listener and the command socket
    /// answer to the end.
    async fn drain(mut self) {
        self.draining.cancel();
        until_ended(&mut self.reloader).await;
        let last = self.live.generation();
        let drain = last.config.server.drain;
        let deadline = Instant::now() + drain;
        self.public.stop(drain).await;
        if timeout_at(deadline, self.background.join()).await.is_err() {
            tracing::warn!("background tasks did not end within server.drain");
        }
        let (exporting, end_of_export) = self.exporting;
        end_of_export.cancel();
        if timeout(FLUSH_LIMIT, exporting).await.is_err() {
            tracing::warn!("the last spans could not be sent in time; dropping them");
        }
        last.resources.close().await;
        let helpers = timeout(ADMIN_GRACE, self.helpers.shutdown());
        let (.., helpers) = tokio::join!(self.admin.stop(ADMIN_GRACE), self.commands.stop(ADMIN_GRACE), helpers);
        if helpers.is_err() {
            tracing::warn!("a helper task did not end in time; stopping without it");
        }
        tracing::info!("stopped");
    }
}

/// Waits until the reload actor has ended. It may still be publishing, and ends at its next await. A volume that hangs
/// while it reads a file must not hold up the stop.
async fn until_ended(reloader: &mut JoinHandle<()>) {
    if !reloader.is_finished() && timeout(RELOADER_LIMIT, reloader).await.is_err() {
        tracing::warn!("the reload that is under way did not end in time; stopping without it");
    }
}

/// Returns the report of a part that ended while the process served. It must run as long as the process does.
fn unexpected_end(part: &str) -> Report {
    let fault = Fault::new(Exit::Bug, part, "it panicked", "see the log before this event; this is a bug");
    Report::of(Phase::Serve, fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::listen,
        status::Status,
        testing::{MemoryManager, idle_service::IdleService},
    };
    use std::{convert::Infallible, net::Ipv4Addr, sync::mpsc};
    use tokio::{sync::watch, time::sleep};

    /// Starts a process with the default times of a stop. The sender sends its SIGHUPs.
    async fn start() -> (ServingProcess<IdleService>, watch::Sender<u64>) {
        let mut config = Config::default();
        config.server.listen = (Ipv4Addr::LOCALHOST, 0).into();
        config.admin.listen = (Ipv4Addr::LOCALHOST, 0).into();
        let (config, loader) = (Arc::new(config), Loader::<IdleService>::new(MemoryManager::new()));
        let deadline = Instant::now() + config.secrets.deadline;
        let first = Arc::new(loader.first_load(config.clone(), deadline).await.expect("it needs nothing"));
        let status = Status::new(&IdleService::PACKAGE, &first, loader.last_uses.clone(), loader.regions.clone());
        let telemetry = Telemetry::detached();
        let status = StatusWriter::new(status, &loader.metrics, &telemetry);
        let (hup_count, hups) = watch::channel(0);
        let signals = Signals::new(hups);
        let read = config.clone();
        let config_reader = ConfigReader::new(move || Ok(read.clone()));
        let parts = ReloaderParts { loader, config_reader, telemetry, started_with: config };
        let listeners = listen::bind(first).expect("free ports");
        (ServingProcess::start(listeners, status, signals, parts), hup_count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_actor_that_panics_while_a_stopping_process_lingers_ends_it_with_70() {
        let (mut process, _hups) = start().await;
        process.signals.begin_stop();
        process.reloader = tokio::spawn(async {
            sleep(Duration::from_secs(1)).await;
            panic!("as scripted")
        });
        let begin = Instant::now();
        let CommandError { report, .. } = process.run_until_stopped().await.expect_err("a bug");
        assert_eq!((report.exit(), report.faults()[0].subject.as_str()), (Exit::Bug, "the reload actor"));
        assert!(begin.elapsed() >= Duration::from_secs(3), "it lingers on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_ends_a_process_at_once_that_already_stops_because_a_part_has_failed() {
        let (mut process, _hups) = start().await;
        process.reloader = tokio::spawn(async { panic!("as scripted") });
        let signals = process.signals.clone();
        let stopped = tokio::spawn(process.run_until_stopped());
        timeout(Duration::from_secs(2), signals.stopping.cancelled()).await.expect("it stops, and lingers for 3 s");
        assert!(signals.is_next_one_the_last());
        assert!(stopped.await.expect("no panic").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn workers_and_tasks_go_on_while_a_stopping_process_lingers_and_end_then() {
        let (process, _hups) = start().await;
        let last_look = watch::Sender::new(None);
        let looks = last_look.clone();
        process.background.work(
            "looking",
            1,
            |_| Duration::from_secs(1),
            move |_| {
                looks.send_replace(Some(Instant::now()));
                async { Ok::<_, Infallible>(false) }
            },
        );
        let told = watch::Sender::new(None);
        let tell = told.clone();
        process.background.spawn("waiting", move |_, stopping| {
            let tell = tell.clone();
            async move {
                stopping.cancelled().await;
                tell.send_replace(Some(Instant::now()));
            }
        });
        process.signals.begin_stop();
        let begin = Instant::now();
        assert!(process.run_until_stopped().await.is_ok());
        let since_begin = |at: &watch::Sender<Option<Instant>>| at.borrow().expect("it ran") - begin;
        assert!(since_begin(&last_look) >= Duration::from_secs(1), "it looks about once a second");
        assert!(since_begin(&told) >= Duration::from_secs(3), "the process lingers for 3 s");
        assert!(begin.elapsed() < Duration::from_secs(20), "all have ended before server.drain is over");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reload_that_hangs_in_a_read_does_not_hold_up_the_stop() {
        let (answer, volume) = mpsc::sync_channel::<()>(1);
        let mut reloader = tokio::spawn(async move { volume.recv().expect("the test answers") });
        let stopped = tokio::time::timeout(Duration::from_secs(20), until_ended(&mut reloader)).await;
        answer.send(()).unwrap();
        stopped.expect("the stop goes on");
        reloader.await.unwrap();
        until_ended(&mut tokio::spawn(async {})).await;
    }
}
