//! The command line.

/// Prints a line on standard output.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::standard_output::write_line(format_args!($($text)*))
    };
}

mod arguments;

pub(crate) mod admin_listeners;
pub(crate) mod audit;
mod check;
mod config;
mod debug_token;
mod health;
mod migrate;
mod openapi;
mod policy;
pub(crate) mod reload;

mod admin;
mod command_connection;
mod standard_output;
mod trust;

use self::{
    admin_listeners::AdminListeners,
    arguments::{Cli, CliCommand},
};
use crate::{
    application::Application,
    bootstrap::{
        self,
        command_error::CommandError,
        inherited::{self, Inherited},
        manager::ManagerSetup,
    },
    caught::caught,
    config::{layers::Sources, settings::LogFormat},
    exit::Exit,
    secrets::{aws::policy::AwsAccount, regions::Regions},
    signals::CommandSignals,
    telemetry::{self, panics},
};
use clap::{CommandFactory, FromArgMatches, error::ErrorKind};
use std::{io, process::ExitCode, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// The time for which an idle thread for blocking calls, such as DNS lookups, is kept. [`keep_a_thread`] keeps one for ever.
const KEEP_THREADS: Duration = Duration::from_secs(60);

/// The longest time for which the threads of the runtime may take to start.
const THREADS_START: Duration = Duration::from_secs(10);

/// Parses the command line and runs its command. Returns the exit code of the process.
pub(crate) fn main<A: Application>(manager: impl ManagerSetup<A::Settings>) -> ExitCode {
    let inherited = Inherited::replace();
    panics::install_hook();
    let command = Cli::command().name(A::PACKAGE.name).version(A::PACKAGE.version);
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    standard_output::remember(printed);
                    exit_code(None)
                }
                _ => Exit::Usage.into(),
            };
        }
    };
    let result = match start_runtime(KEEP_THREADS) {
        Ok(runtime) => {
            let result = caught(|| runtime.block_on(run::<A>(cli, manager, &inherited)));
            // Does not wait for blocking tasks: a DNS lookup that is under way must not delay the exit.
            runtime.shutdown_background();
            result
        }
        Err(error) => Some(Err(bootstrap::start_error(&error))),
    };
    let failed = match result {
        Some(Ok(())) => None,
        None => Some(Exit::Bug),
        Some(Err(CommandError { report, format })) => {
            telemetry::report_failure(&report, format);
            Some(report.exit())
        }
    };
    let code = exit_code(failed);
    telemetry::flush();
    code
}

/// Returns the exit code of a command. Reports what it could not print.
fn exit_code(failed: Option<Exit>) -> ExitCode {
    let unwritten = standard_output::failure();
    if let Some(report) = &unwritten {
        telemetry::report_failure(report, LogFormat::Pretty);
    }
    match failed.or(unwritten.map(|report| report.exit())) {
        None => ExitCode::SUCCESS,
        Some(exit) => exit.into(),
    }
}

/// Starts the runtime, with a thread for each of its workers and one for blocking calls.
///
/// # Errors
/// If the operating system gives it too few threads, or another resource.
fn start_runtime(keep_threads: Duration) -> io::Result<Runtime> {
    let no_more = || io::Error::other("more threads");
    let start = || {
        let runtime = runtime(keep_threads).build()?;
        let thread = runtime.spawn_blocking(|| ());
        if runtime.block_on(async { timeout(THREADS_START, thread).await }).is_err() {
            runtime.shutdown_background();
            return Err(no_more());
        }
        runtime.spawn(keep_a_thread(keep_threads));
        Ok(runtime)
    };
    // tokio panics if it gets no thread at all. If it gets some, the rest of its work waits for ever.
    panics::unlogged(start).unwrap_or_else(|| Err(no_more()))
}

/// Returns a builder of the runtime, which ends threads for blocking calls that are idle for this long.
fn runtime(keep_threads: Duration) -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_keep_alive(keep_threads);
    builder
}

/// Keeps one thread for blocking calls: uses it before it was idle for too long. If the operating system gives no more
/// threads, calls wait for this one. Without any, tokio panics.
async fn keep_a_thread(keep_threads: Duration) {
    loop {
        tokio::time::sleep(keep_threads / 2).await;
        let _ = tokio::task::spawn_blocking(|| ()).await;
    }
}

async fn run<A: Application>(
    cli: Cli,
    manager: impl ManagerSetup<A::Settings>,
    inherited: &Inherited,
) -> Result<(), CommandError> {
    #[expect(clippy::disallowed_methods, reason = "the configuration is made from these variables")]
    let sources = Sources::new(inherited::absolute(cli.config_dir), std::env::vars_os());
    let command = cli.command.unwrap_or(CliCommand::Serve);
    match command {
        CliCommand::Serve => return bootstrap::serve::<A>(sources, manager, inherited).await,
        // It ends between two waves.
        CliCommand::Reload { settle, fleet, wave, no_audit, expect, ca, name, .. } if !fleet.is_empty() => {
            let signals = bootstrap::signals()?;
            let replicas = AdminListeners::find(&fleet, expect, ca.as_deref(), name);
            let plan = reload::fleet::FleetPlan { wave, settle, ends_with_audit: !no_audit };
            return reload::fleet::run::<A, _>(&sources, manager, replicas, plan, signals).await;
        }
        _ => (),
    }
    let signals = CommandSignals::install();
    match command {
        CliCommand::Serve => unreachable!("it has ended"),
        CliCommand::Check { live } => check::run::<A>(&sources, manager, &signals, live).await,
        CliCommand::Migrate => migrate::run::<A>(&sources, manager, &signals).await,
        CliCommand::Config { json, explain } => config::run::<A>(&sources, json, explain).await,
        CliCommand::Openapi { auth } => openapi::run::<A>(auth),
        CliCommand::Policy { holder, provider, account, kms_key, database_resource } => {
            let resource_ids = database_resource.into_iter().collect();
            policy::run::<A>(
                &sources,
                &manager,
                holder,
                provider,
                &AwsAccount { id: account, kms_keys: kms_key, resource_ids },
            )
            .await
        }
        CliCommand::Reload { pid, wait, settle, .. } => {
            let wait = if wait { Some(settle) } else { None };
            reload::run::<A>(&sources, pid, wait).await
        }
        CliCommand::Audit(arguments) => audit::run::<A, _>(&sources, manager, &signals, arguments).await,
        CliCommand::DebugToken { lifetime } => debug_token::run::<A>(&sources, lifetime).await,
        CliCommand::Health { probe } => health::run::<A>(&sources, probe).await,
    }
}

/// Does the work of a command for which the manager was set up, and closes the Regions. The first SIGTERM or SIGINT ends the
/// work. Then the process ends when it has given back what the manager gave to it.
async fn close_after<T>(regions: &Regions, signals: &CommandSignals, work: impl Future<Output = T>) -> T {
    match regions.close_after(signals.end_work(work)).await {
        Ok(done) => done,
        Err(signal) => signal.exit(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eventually::eventually;
    use std::{
        fs,
        sync::{Arc, Barrier},
    };

    /// Returns the number of threads of this process with this name.
    fn threads(name: &str) -> usize {
        let tasks = fs::read_dir("/proc/self/task").expect("the kernel lists threads").flatten();
        tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)).count()
    }

    #[test]
    fn a_burst_of_blocking_calls_leaves_one_thread_for_them() {
        const CALLS: usize = 50;
        let keep = Duration::from_millis(500);
        let runtime = runtime(keep).worker_threads(1).thread_name("burst").build().expect("a runtime");
        let together = Arc::new(Barrier::new(CALLS + 1));
        for _ in 0..CALLS {
            let together = together.clone();
            runtime.spawn_blocking(move || together.wait());
        }
        let burst = || threads("burst");
        runtime.block_on(eventually("a thread for each call", burst, |threads| *threads > CALLS));
        together.wait();
        runtime.spawn(keep_a_thread(keep));
        // The worker of the runtime is the other one.
        runtime.block_on(eventually("the end of the other threads", burst, |threads| *threads <= 2));
    }
}
