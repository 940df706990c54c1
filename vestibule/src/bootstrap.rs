//! The life of the process: load every credential, bind the listeners, serve, reload, stop.

pub(crate) mod command_error;
pub(crate) mod inherited;
pub(crate) mod manager;

mod core_dumps;
mod file_config;
mod process;

use self::{
    command_error::CommandError,
    file_config::FileConfig,
    inherited::Inherited,
    manager::ManagerSetup,
    process::{ReloaderParts, ServingProcess},
};
use crate::{
    application::{Application, Generation},
    backoff::Backoff,
    blocking_reads::BlockingReads,
    cause::RootCause,
    config::{Config, ConfigError, layers::Sources, settings::LogFormat},
    exit::{Exit, Fault, Phase, Report},
    http::listen::{self, BoundListeners},
    loader::Loader,
    reload::ConfigReader,
    secrets::{regions::Regions, set::SecretSet},
    signals::Signals,
    status::{Status, writer::StatusWriter},
    telemetry::{Telemetry, standard_error},
};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The time for which a start reads a file of the configuration again that cannot be read, or is not TOML. It is short:
/// most often, a name is wrong.
const WAIT_FOR_FILES: Duration = Duration::from_secs(3);

/// Runs the service until it is asked to stop. Returns `Ok` if it stopped as asked.
///
/// # Errors
/// The report of a start that failed, or of a service that failed while it served.
pub(crate) async fn serve<A: Application>(
    sources: Sources,
    manager: impl ManagerSetup<A::Settings>,
    inherited: &Inherited,
) -> Result<(), CommandError> {
    let signals = signals()?;
    let read = tokio::select! {
        biased;
        () = signals.stopping.cancelled() => return Ok(()),
        read = configure_a_start::<A>(&sources) => read?,
    };
    let config = read.config.clone();
    let telemetry = Telemetry::install(&config.telemetry, &A::PACKAGE).map_err(|error| start_error(&error))?;
    inherited.log();

    let started = Instant::now();
    let format = config.telemetry.format;
    let regions = tokio::select! {
        biased;
        () = signals.stopping.cancelled() => return stopped_before_loading(),
        regions = regions(&sources, manager, &config, started + config.secrets.deadline) => {
            Arc::new(regions.map_err(|report| CommandError { report, format })?)
        }
    };
    let start = Start { sources, signals, telemetry, read, started };
    regions.close_after(load_and_serve::<A>(regions.clone(), start)).await
}

/// Handles the signals of the process from now on.
///
/// # Errors
/// If the operating system refuses a handler.
pub(crate) fn signals() -> Result<Signals, CommandError> {
    Signals::install().map_err(|error| start_error(&error))
}

/// The parts of a start whose secrets manager is set up.
struct Start<A: Application> {
    sources: Sources,
    signals: Signals,
    telemetry: Telemetry,
    read: FileConfig<A>,
    started: Instant,
}

/// Loads the first generation, and serves until the process is asked to stop.
///
/// # Errors
/// As [`serve`].
async fn load_and_serve<A: Application>(regions: Arc<Regions>, start: Start<A>) -> Result<(), CommandError> {
    let Start { sources, signals, telemetry, read, started } = start;
    let config = read.config.clone();
    let format = config.telemetry.format;
    let failed = |report| CommandError { report, format };
    let deadline = started + config.secrets.deadline;
    let loader = Loader::<A>::with_regions(regions, sources.is_strict());
    let first = tokio::select! {
        biased;
        () = signals.stopping.cancelled() => return stopped_before_loading(),
        first = loader.first_load(config, deadline) => first.map_err(failed)?,
    };
    let first = Arc::new(first);
    let status = StatusWriter::new(
        Status::new(&A::PACKAGE, &first, loader.last_uses.clone(), loader.regions.clone()),
        &loader.metrics,
        &telemetry,
    );
    let bound = bind_unless_stopped(first, deadline, &signals.stopping).await.map_err(failed)?;
    let Some(listeners) = bound else { return Ok(()) };
    let (started_with, read) = (read.config.clone(), Mutex::new(read));
    let read_again = move || Ok(read.lock().unwrap_or_else(PoisonError::into_inner).read_again(&sources)?);
    let config_reader = ConfigReader::new(read_again);
    let parts = ReloaderParts { loader, config_reader, telemetry, started_with };
    let process = ServingProcess::start(listeners, status, signals, parts);
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(duration_ms, "all credentials loaded; serving");
    process.notify_ready();
    process.run_until_stopped().await
}

fn stopped_before_loading() -> Result<(), CommandError> {
    tracing::info!("asked to stop before the first generation was loaded");
    Ok(())
}

/// Reads the configuration for a command.
///
/// # Errors
/// The report of every mistake. It is logged in the format that the configuration asks for.
pub(crate) async fn configure<A: Application>(sources: &Sources) -> Result<Arc<Config<A::Settings>>, CommandError> {
    let read = read_in_time(sources, FileConfig::<A>::read).await.map_err(log_in_its_format::<A>)?;
    Ok(read.config)
}

/// Reads the configuration for a command that needs a part of it. The service does not check its own settings.
///
/// # Errors
/// Every mistake.
pub(crate) async fn read_for_a_command<A: Application>(sources: &Sources) -> Result<Config<A::Settings>, ConfigError> {
    let read = |sources: &Sources| Config::load(sources, A::PACKAGE.name, &A::Secrets::specs());
    read_in_time(sources, read).await
}

/// Reads the files of the configuration, whose volume may hang.
///
/// # Errors
/// That of `read`, or that of files which did not answer in time.
pub(crate) async fn read_in_time<T: Send + 'static>(
    sources: &Sources,
    read: impl FnOnce(&Sources) -> Result<T, ConfigError> + Send + 'static,
) -> Result<T, ConfigError> {
    read_in_turn(&BlockingReads::default(), sources, read).await
}

async fn read_in_turn<T: Send + 'static>(
    reads: &BlockingReads,
    sources: &Sources,
    read: impl FnOnce(&Sources) -> Result<T, ConfigError> + Send + 'static,
) -> Result<T, ConfigError> {
    let of_read = sources.clone();
    let silent = || {
        let subject = format!("configuration folder {}", sources.dir.display());
        ConfigError::of_silent_files(subject, "look at the volume that it is on; then start again")
    };
    // In a box, because the compiler gives up on futures that are nested more deeply.
    Box::pin(reads.run(move || read(&of_read))).await.unwrap_or_else(|| Err(silent()))
}

/// Reads the configuration for a start. Reads a file that cannot be read, or is not TOML, again for a moment: somebody may
/// be replacing it.
///
/// # Errors
/// As [`configure`].
async fn configure_a_start<A: Application>(sources: &Sources) -> Result<FileConfig<A>, CommandError> {
    read_for_a_start(sources, FileConfig::<A>::read).await.map_err(log_in_its_format::<A>)
}

/// Reads until there is a configuration, or an error that will not pass in a moment.
async fn read_for_a_start<T: Send + 'static>(
    sources: &Sources,
    read: impl Fn(&Sources) -> Result<T, ConfigError> + Clone + Send + 'static,
) -> Result<T, ConfigError> {
    let reads = BlockingReads::default();
    let mut pauses = Backoff::until(Instant::now() + WAIT_FOR_FILES);
    let mut is_said = false;
    loop {
        let error = match read_in_turn(&reads, sources, read.clone()).await {
            Ok(config) => return Ok(config),
            Err(error) => error,
        };
        if error.unread.is_none() || !pauses.wait().await {
            return Err(error);
        }
        if !is_said {
            // There is no log yet: the configuration says how to write it.
            let seconds = WAIT_FOR_FILES.as_secs();
            standard_error::write_line(&format!("the configuration cannot be read; trying for {seconds} s"));
            is_said = true;
        }
    }
}

fn log_in_its_format<A: Application>(error: ConfigError) -> CommandError {
    let ConfigError { report, telemetry, .. } = error;
    // Without a log, standard error has the report.
    let _ = Telemetry::install(&telemetry, &A::PACKAGE);
    CommandError { report, format: telemetry.format }
}

/// Binds the listeners. Returns `None` if the process is asked to stop before. What the generation has opened is closed if
/// nobody can be served.
///
/// # Errors
/// As [`bind`].
async fn bind_unless_stopped<A: Application>(
    first: Arc<Generation<A>>,
    deadline: Instant,
    stopping: &CancellationToken,
) -> Result<Option<BoundListeners<A>>, Report> {
    let bound = tokio::select! {
        biased;
        () = stopping.cancelled() => {
            tracing::info!("asked to stop before the listeners were bound");
            Ok(None)
        }
        bound = bind(first.clone(), deadline) => bound.map(Some),
    };
    if !matches!(bound, Ok(Some(_))) {
        first.resources.close().await;
    }
    bound
}

/// Binds the listeners. Tries until the deadline: a predecessor may still have the port, and an address may not be there
/// yet.
///
/// # Errors
/// The report of the last try.
async fn bind<A: Application>(first: Arc<Generation<A>>, deadline: Instant) -> Result<BoundListeners<A>, Report> {
    let mut pauses = Backoff::until(deadline);
    let mut is_logged = false;
    loop {
        let report = match listen::bind(first.clone()) {
            Ok(listeners) => return Ok(listeners),
            Err(report) => report,
        };
        if !is_logged {
            tracing::warn!(error = %report, "an address cannot be bound; trying until secrets.deadline");
            is_logged = true;
        }
        if !pauses.wait().await {
            return Err(report);
        }
    }
}

/// Sets the secrets manager up, and returns its Regions. The caller closes them, however its work ends. Disables core dumps
/// first, because from here on the process may hold secrets.
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
pub(crate) fn start_error(error: &io::Error) -> CommandError {
    let fault = Fault::new(
        Exit::Bug,
        "the process",
        format!("the operating system refused a resource that every service needs: {}", RootCause::of(error)),
        "raise the limits of the process: on open files (`ulimit -n`), and on threads (`ulimit -u`, `TasksMax=` of systemd, the \
         limit of process ids of its container)",
    );
    CommandError { report: Report::of(Phase::Command, fault), format: LogFormat::Json }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        application::Build,
        credentials::api_key::ApiKey,
        openapi::OpenApiRouter,
        package::Package,
        resources::{build_error::BuildError, resource::Resource},
        secrets::credential::Credential,
        testing::{Harness, MemoryManager},
    };
    use std::{
        net::TcpListener,
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
    };
    use vestibule_derive::SecretSet;

    /// A session that says if it was closed.
    #[derive(Clone, Default)]
    struct Session(Arc<AtomicBool>);

    impl Resource for Session {
        async fn close(&self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// A service with a session.
    struct WithSession(Session);

    #[derive(SecretSet)]
    struct SecretsOfSession {
        key: Credential<ApiKey>,
    }

    impl Application for WithSession {
        const PACKAGE: Package = Package::new("with-session", "0");
        type Settings = ();
        type Secrets = SecretsOfSession;

        async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
            Ok(Self(cx.resource(&cx.secrets.key, &(), async |_| Ok(Session::default())).await?))
        }

        fn routes() -> OpenApiRouter<Arc<Self>> {
            OpenApiRouter::new()
        }
    }

    #[tokio::test]
    async fn what_a_start_has_opened_is_closed_unless_it_can_serve() {
        let occupied = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let (is_taken, is_free) = (occupied.local_addr().expect("it is bound"), "127.0.0.1:0".parse().expect("one"));
        for (public, is_stopped, is_bound) in
            [(is_free, false, Some(true)), (is_free, true, Some(false)), (is_taken, false, None)]
        {
            let mut config = Config::default();
            (config.server.listen, config.admin.listen) = (public, is_free);
            let manager = MemoryManager::with([("key", "of-the-session")]);
            let harness = Harness::<WithSession>::start(manager, config).await.expect("it has its secret");
            let first = harness.live().generation();
            let stopping = CancellationToken::new();
            if is_stopped {
                stopping.cancel();
            }
            let bound = bind_unless_stopped(first.clone(), Instant::now(), &stopping).await;
            assert_eq!(bound.ok().map(|listeners| listeners.is_some()), is_bound);
            let is_closed = first.service.0.0.load(Ordering::SeqCst);
            assert_eq!(is_closed, is_bound != Some(true), "{is_bound:?}");
        }
    }

    #[tokio::test]
    async fn a_start_and_a_command_end_with_an_error_if_the_files_of_the_configuration_hang() {
        let (volume, answers) = mpsc::sync_channel::<()>(1);
        let answers = Arc::new(Mutex::new(answers));
        let read = move |_: &Sources| {
            // It ends when the sender is dropped.
            let _ = answers.lock().expect("no read panics").recv();
            Ok(())
        };
        let sources = Sources::new("/mnt/config".into(), []);
        for read in [read_for_a_start(&sources, read.clone()).await, read_in_time(&sources, read.clone()).await] {
            let report = read.expect_err("no file answers").report.to_string();
            assert!(report.contains("configuration folder /mnt/config") && report.contains("within 2 s"), "{report}");
        }
        drop(volume);
        assert!(read_for_a_start(&sources, read).await.is_ok());
    }
}
