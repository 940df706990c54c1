//! The life of the process, a phase a line: keys before the door, and the door closed before the keys are dropped.

use crate::{
    admin,
    application::{Application, Background, Generation, Live},
    config::{Config, ConfigError, layers::Sources, settings::LogFormat},
    exit::{Exit, Fault, Phase, Report},
    expiry,
    http::{self, listen::Bound, tls::Tls},
    loader::Loader,
    reload::Reloader,
    secrets::{aws::SecretsManager, regions::Regions, set::SecretSet, source::Source},
    signals::Signals,
    status::{Status, writer::StatusWriter},
    systemd,
    telemetry::{self, Telemetry},
};
use rustls::ServerConfig;
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};

/// How long the admin listener may take to finish when everything else has ended.
const ADMIN_GRACE: Duration = Duration::from_millis(500);

/// A start that failed, and how its report is to be told.
pub(crate) struct Failed {
    pub(crate) report: Report,
    pub(crate) format: LogFormat,
}

/// Bootstrap, serve, reload, stop. `Ok`: stopped as asked.
pub(crate) async fn serve<A: Application>(sources: Sources) -> Result<(), Failed> {
    let signals = Signals::install().map_err(|error| bug(&error))?;
    let config = configure::<A>(&sources)?;
    let telemetry = Telemetry::install(&config.telemetry);

    let started = Instant::now();
    let format = config.telemetry.format;
    let failed = |report| Failed { report, format };
    let (loader, first) = tokio::select! {
        biased;
        () = signals.stopping.cancelled() => {
            tracing::info!("asked to stop before there was anything to serve");
            return Ok(());
        }
        first = first_generation::<A>(&sources, config.clone()) => first.map_err(failed)?,
    };
    let first = Arc::new(first);
    let status = StatusWriter::new(Status::first(&A::PACKAGE, &first, loader.counters.clone()));
    let bound = http::bind(first).map_err(failed)?;
    let running = Running::start(bound, status, signals, Parts { loader, sources, telemetry, config })
        .map_err(|error| bug(&error))?;
    tracing::info!(duration_ms = elapsed_ms(started), "keys are held; serving");
    systemd::ready();
    running.until_stopped().await
}

/// The configuration, or a failed start told in the format that it asks for.
pub(crate) fn configure<A: Application>(sources: &Sources) -> Result<Arc<Config<A::Settings>>, Failed> {
    Config::load(sources, A::PACKAGE.name, &A::Secrets::specs()).map(Arc::new).map_err(
        |ConfigError { report, telemetry, .. }| {
            Telemetry::install(&telemetry);
            Failed { report, format: telemetry.format }
        },
    )
}

/// Walks the loader for the first time.
pub(crate) async fn first_generation<A: Application>(
    sources: &Sources,
    config: Arc<Config<A::Settings>>,
) -> Result<(Loader<A>, Generation<A>), Report> {
    let deadline = Instant::now() + config.secrets.deadline;
    let loader = Loader::with_regions(regions(sources, &config, deadline).await?);
    let first = loader.first_load(config, deadline).await?;
    Ok((loader, first))
}

/// The secrets manager that the configuration names. From here on the process may hold secrets.
pub(crate) async fn regions<T>(sources: &Sources, config: &Config<T>, deadline: Instant) -> Result<Regions, Report> {
    telemetry::no_core_dumps();
    let connecting = SecretsManager::of_regions(&config.secrets.aws, sources.production());
    let made = match tokio::time::timeout_at(deadline, connecting).await {
        Ok(made) => made,
        Err(_) => Err(SecretsManager::region_timeout()),
    };
    match made {
        Ok(regions) => {
            let region = |(name, manager)| (name, Arc::new(manager) as Arc<dyn Source>);
            Ok(Regions::new(regions.into_iter().map(region)))
        }
        Err(fault) => Err(Report::of(Phase::Secrets, fault)),
    }
}

/// What the reload actor goes on with.
struct Parts<A: Application> {
    loader: Loader<A>,
    sources: Sources,
    telemetry: Telemetry,
    config: Arc<Config<A::Settings>>,
}

/// A process that serves.
struct Running<A: Application> {
    public: http::Serving,
    admin: http::Serving,
    reloader: JoinHandle<()>,
    live: Live<A>,
    status: StatusWriter,
    background: Background<A>,
    stopping: tokio_util::sync::CancellationToken,
}

impl<A: Application> Running<A> {
    fn start(bound: Bound<A>, status: StatusWriter, signals: Signals, parts: Parts<A>) -> std::io::Result<Self> {
        tracing::info!(
            server.address = %bound.public.local_addr()?,
            admin.address = %bound.admin.local_addr()?,
            "listening"
        );
        bound.live.borrow().resources.publish();
        let live = Live::new(bound.live.subscribe());
        let tls = |listener: fn(&Tls) -> &Option<Arc<ServerConfig>>| {
            let live = live.clone();
            move || listener(&live.generation().tls).clone()
        };
        let failed = |listener| {
            let help = "Connections that ended before their handshake did";
            let counter = parts.loader.counters.own("vestibule_tls_handshakes_failed", help, &[("listener", listener)]);
            counter.expect("the name and the label are good, and nobody else's")
        };
        let (admin_tls, public_tls) = (tls(|tls| &tls.admin), tls(|tls| &tls.public));
        let admin = admin::router(&status, signals.hups.clone());
        let admin = http::serve(bound.admin, admin_tls, failed("admin"), admin)?;
        let public = http::serve(bound.public, public_tls, failed("public"), http::Door::new(live.clone()))?;
        tokio::spawn(expiry::watch(live.clone(), signals.stopping.clone()));
        let background = Background::new(live.clone(), signals.stopping.clone());
        A::background(&background);
        let reloader = Reloader {
            loader: parts.loader,
            sources: parts.sources,
            telemetry: parts.telemetry,
            live: bound.live,
            status: status.clone(),
            started_with: parts.config,
        };
        let reloader = tokio::spawn(reloader.run(signals.hups, signals.stopping.clone()));
        Ok(Self { public, admin, reloader, live, status, background, stopping: signals.stopping })
    }

    async fn until_stopped(mut self) -> Result<(), Failed> {
        let failed = tokio::select! {
            () = self.stopping.cancelled() => None,
            error = self.public.failed() => Some(ended("the public listener", &error.to_string())),
            error = self.admin.failed() => Some(ended("the admin listener", &error.to_string())),
            _ = &mut self.reloader => if self.stopping.is_cancelled() { None } else { Some(ended("the reload actor", "it panicked")) },
        };
        let format = self.live.generation().config.telemetry.format;
        self.stop().await;
        failed.map_or(Ok(()), |report| Err(Failed { report, format }))
    }

    /// Readiness off, linger, stop accepting, finish what is in flight, close the pools; the admin listener answers to
    /// the end.
    async fn stop(self) {
        tracing::info!("stopping");
        systemd::stopping();
        self.stopping.cancel();
        self.status.stopping();
        let last = self.live.generation();
        let drain = last.config.server.drain;
        tokio::time::sleep(last.config.server.linger).await;
        let deadline = Instant::now() + drain;
        self.public.stop(drain).await;
        if tokio::time::timeout_at(deadline, self.background.join()).await.is_err() {
            tracing::warn!("background tasks did not end within server.drain");
        }
        last.resources.close().await;
        self.admin.stop(ADMIN_GRACE).await;
        tracing::info!("stopped");
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// What must run as long as the process does has ended.
fn ended(what: &str, why: &str) -> Report {
    let fault = Fault::new(Exit::Bug, what, format!("it ended: {why}"), "see the log before this: this is a bug");
    Report::of(Phase::Serve, fault)
}

fn bug(error: &std::io::Error) -> Failed {
    let fault = Fault::new(
        Exit::Bug,
        "the process",
        format!("the operating system refused what every service needs: {}", error.kind()),
        "check the limits of the process (open files, tasks)",
    );
    Failed { report: Report::of(Phase::Command, fault), format: LogFormat::Json }
}
