//! The life of the process: load every credential, bind the listeners, serve, reload, stop.

pub(crate) mod command_error;
pub(crate) mod inherited;
pub(crate) mod manager;

mod core_dumps;
mod process;

use self::{
    command_error::CommandError,
    inherited::Inherited,
    manager::ManagerSetup,
    process::{ReloaderParts, ServingProcess},
};
use crate::{
    application::{Application, Generation},
    cause::RootCause,
    config::{Config, ConfigError, layers::Sources, settings::LogFormat},
    exit::{Exit, Fault, Phase, Report},
    http::listen,
    loader::Loader,
    secrets::{regions::Regions, set::SecretSet},
    signals::Signals,
    status::{Status, writer::StatusWriter},
    systemd,
    telemetry::Telemetry,
};
use std::{io, sync::Arc};
use tokio::time::Instant;

/// Runs the service until it is asked to stop. Returns `Ok` if it stopped as asked.
///
/// # Errors
/// The report of a start that failed, or of a service that failed while it served.
pub(crate) async fn serve<A: Application>(
    sources: Sources,
    manager: impl ManagerSetup<A::Settings>,
    inherited: &Inherited,
) -> Result<(), CommandError> {
    let signals = Signals::install().map_err(|error| start_error(&error))?;
    let config = configure::<A>(&sources)?;
    let telemetry = Telemetry::install(&config.telemetry);
    inherited.log();

    let started = Instant::now();
    let format = config.telemetry.format;
    let failed = |report| CommandError { report, format };
    let (loader, first) = tokio::select! {
        biased;
        () = signals.stopping.cancelled() => {
            tracing::info!("asked to stop before the first generation was loaded");
            return Ok(());
        }
        first = first_generation::<A>(&sources, manager, config.clone()) => first.map_err(failed)?,
    };
    let first = Arc::new(first);
    let status = StatusWriter::new(Status::new(&A::PACKAGE, &first, loader.last_uses.clone()), &loader.metrics);
    let listeners = listen::bind(first).map_err(failed)?;
    let parts = ReloaderParts { loader, sources, telemetry, config };
    let process = ServingProcess::start(listeners, status, signals, parts).map_err(|error| start_error(&error))?;
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(duration_ms, "all credentials loaded; serving");
    systemd::ready();
    process.run_until_stopped().await
}

/// Reads the configuration.
///
/// # Errors
/// The report of every mistake. It is logged in the format that the configuration asks for.
pub(crate) fn configure<A: Application>(sources: &Sources) -> Result<Arc<Config<A::Settings>>, CommandError> {
    match Config::load(sources, A::PACKAGE.name, &A::Secrets::specs()) {
        Ok(config) => Ok(Arc::new(config)),
        Err(ConfigError { report, telemetry, .. }) => {
            Telemetry::install(&telemetry);
            Err(CommandError { report, format: telemetry.format })
        }
    }
}

/// Loads the first generation. Returns it with the loader, which later reloads use too.
///
/// # Errors
/// The report of a load that fails.
pub(crate) async fn first_generation<A: Application>(
    sources: &Sources,
    manager: impl ManagerSetup<A::Settings>,
    config: Arc<Config<A::Settings>>,
) -> Result<(Loader<A>, Generation<A>), Report> {
    let deadline = Instant::now() + config.secrets.deadline;
    let loader = Loader::with_regions(regions(sources, manager, &config, deadline).await?);
    let first = loader.first_load(config, deadline).await?;
    Ok((loader, first))
}

/// Sets the secrets manager up, and returns its Regions. Disables core dumps first, because from here on the process may
/// hold secrets.
///
/// # Errors
/// The report of a set-up that fails or does not end before the deadline.
pub(crate) async fn regions<T>(
    sources: &Sources,
    manager: impl ManagerSetup<T>,
    config: &Config<T>,
    deadline: Instant,
) -> Result<Regions, Report> {
    core_dumps::disable();
    manager.regions(sources, config, deadline).await.map_err(|fault| Report::of(Phase::Secrets, fault))
}

/// Returns the error of a start that the operating system does not let go on.
fn start_error(error: &io::Error) -> CommandError {
    let fault = Fault::new(
        Exit::Bug,
        "the process",
        format!("the operating system refused a resource that every service needs: {}", RootCause::of(error)),
        "check the limits of the process (open files, tasks)",
    );
    CommandError { report: Report::of(Phase::Command, fault), format: LogFormat::Json }
}
