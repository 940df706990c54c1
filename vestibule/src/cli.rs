//! The command line.

/// Prints a line on standard output. Ignores an error: the reader may have gone away (`… config | head -1`).
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod arguments;

pub(crate) mod audit;
mod check;
mod config;
mod health;
mod migrate;
pub(crate) mod reload;

mod admin;
mod trust;

use self::arguments::{Cli, CliCommand};
use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    config::layers::Sources,
    exit::Exit,
    signals,
    telemetry::{self, panics},
};
use clap::{CommandFactory, FromArgMatches, error::ErrorKind};
use std::{panic::AssertUnwindSafe, process::ExitCode};

/// Parses the command line and runs its command. Returns the exit code of the process.
pub(crate) fn main<A: Application>(manager: impl ManagerSetup<A::Settings>) -> ExitCode {
    remove_foreign_variables();
    panics::install_hook();
    let command = Cli::command().name(A::PACKAGE.name).version(A::PACKAGE.version);
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => Exit::Usage.into(),
            };
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("could not start the tokio runtime: {}", error.kind());
            return Exit::Bug.into();
        }
    };
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(run::<A>(cli, manager))));
    // Does not wait for blocking tasks: a DNS lookup that is under way must not delay the exit.
    runtime.shutdown_background();
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // The panic hook has logged it.
        Err(_) => Exit::Bug.into(),
        Ok(Err(CommandError { report, format })) => {
            telemetry::report_failure(&report, format);
            report.exit().into()
        }
    }
}

async fn run<A: Application>(cli: Cli, manager: impl ManagerSetup<A::Settings>) -> Result<(), CommandError> {
    #[expect(clippy::disallowed_methods, reason = "the configuration is made from these variables")]
    let sources = Sources::new(cli.config_dir, std::env::vars_os());
    let command = cli.command.unwrap_or(CliCommand::Serve);
    if !matches!(command, CliCommand::Serve) {
        // If this fails, the kernel's default actions apply. They end the process too, unless it is PID 1.
        let _ = signals::exit_at_first_signal();
    }
    match command {
        CliCommand::Serve => bootstrap::serve::<A>(sources, manager).await,
        CliCommand::Check { live } => check::run::<A>(&sources, manager, live).await,
        CliCommand::Migrate => migrate::run::<A>(&sources, manager).await,
        CliCommand::Config { json } => config::run::<A>(&sources, json),
        CliCommand::Reload { pid, wait, settle } => {
            let wait = if wait { Some(settle) } else { None };
            reload::run::<A>(&sources, pid, wait).await
        }
        CliCommand::Audit { urls, expect, ca, name } => {
            audit::run::<A, _>(&sources, manager, &urls, expect, ca.as_deref(), name).await
        }
        CliCommand::Health { probe } => health::run::<A>(&sources, probe).await,
    }
}

/// Removes variables that libraries read by themselves. Nothing else may stand in for a credential or a setting.
///
/// sqlx reads libpq's variables (`PGPASSWORD`, `PGSSLKEY`, `PGOPTIONS`, …), and no option overrides some of them. The
/// AWS SDK logs secrets if `LOG_SENSITIVE_BODIES` is set.
fn remove_foreign_variables() {
    #[expect(clippy::disallowed_methods, reason = "it looks only at the names")]
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
    for name in names {
        let text = name.to_string_lossy();
        if !text.starts_with("PG") && text != "LOG_SENSITIVE_BODIES" {
            continue;
        }
        // SAFETY: no other thread runs yet that could read the environment. The runtime starts later in `main`.
        #[expect(unsafe_code, reason = "the standard library can remove a variable only with unsafe code")]
        unsafe {
            std::env::remove_var(name);
        }
    }
}
