//! The command line.

/// Prints a line. A reader that has gone away (`… config | head -1`) is no failure.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub(crate) mod admin;
pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod health;
pub(crate) mod migrate;
pub(crate) mod reload;
pub(crate) mod trust;

use crate::{
    application::Application,
    bootstrap::{self, Failed},
    config::layers::Sources,
    exit::Exit,
    signals, telemetry,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use rustls::pki_types::ServerName;
use std::{num::NonZeroUsize, panic::AssertUnwindSafe, path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(
    after_help = "Exit codes: 0 stopped as asked, 64 usage, 65 a credential is malformed, 66 a credential does not \
                  exist, 69 the manager or the database is unavailable, 70 bug, 71 cannot bind, 75 deadline passed, \
                  77 denied, 78 configuration."
)]
struct Cli {
    /// The folder of default.toml and the profiles.
    #[arg(long, global = true, env = "APP_CONFIG_DIR", default_value = "config", value_name = "FOLDER")]
    config_dir: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch every credential, then serve; take up rotated ones on SIGHUP (the default).
    Serve,
    /// Check the configuration, all mistakes at once.
    Check {
        /// Also fetch every credential and prove it, as a start would.
        #[arg(long)]
        live: bool,
    },
    /// Apply the migrations with the `migrator` credential.
    Migrate,
    /// Print the effective configuration and where each value came from.
    Config {
        /// As JSON, with the credentials that the service asks for.
        #[arg(long)]
        json: bool,
    },
    /// Send SIGHUP to the running service, also in a container where there is no `kill`.
    Reload {
        /// The process; without it, the admin listener is asked.
        #[arg(long, value_name = "PID")]
        pid: Option<i32>,
        /// Wait for the reload, and end with the code that a start would have ended with.
        #[arg(long)]
        wait: bool,
    },
    /// Compare what each replica holds with what the secrets manager has now.
    ///
    /// Ends with 0 if every replica holds the current version of every credential and nothing older; with 69 if one is
    /// behind, drains, or does not answer, or if they are not as many as expected.
    Audit {
        /// Admin listeners: http://10.0.0.7:9090, or 10.0.0.7:9090; with admin.tls, https://10.0.0.7:9090.
        #[arg(required = true, value_name = "URL")]
        urls: Vec<String>,
        /// How many different replicas there are; without it, as many as URLs.
        #[arg(long, value_name = "N")]
        expect: Option<NonZeroUsize>,
        /// PEM file of the authorities that the replicas' certificates are from, in place of those that the platform
        /// trusts.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// What the replicas' certificates are for, in place of the hosts of the URLs.
        #[arg(long, value_name = "HOST", value_parser = host)]
        name: Option<ServerName<'static>>,
    },
    /// Ask the admin listener, for a container's health check.
    Health {
        /// Whether the process lives, or whether requests should come.
        #[arg(value_enum, default_value = "ready")]
        probe: health::Probe,
    },
}

/// Parses the command line and runs what it asks for.
pub(crate) fn main<A: Application>() -> ExitCode {
    forget_variables();
    telemetry::tell_of_panics();
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
            eprintln!("no runtime could be started: {}", error.kind());
            return Exit::Bug.into();
        }
    };
    let running = AssertUnwindSafe(|| runtime.block_on(run::<A>(cli)));
    let ended = std::panic::catch_unwind(running);
    // A name that is still being looked up must not hold the process.
    runtime.shutdown_background();
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // The panic hook has told of it.
        Err(_) => Exit::Bug.into(),
        Ok(Err(Failed { report, format })) => {
            telemetry::tell(&report, format);
            report.exit().into()
        }
    }
}

async fn run<A: Application>(cli: Cli) -> Result<(), Failed> {
    let sources = Sources::new(cli.config_dir, std::env::vars_os());
    let command = cli.command.unwrap_or(Command::Serve);
    if !matches!(command, Command::Serve) {
        // Without handlers the kernel's own actions apply, which end a process as well, unless it is PID 1.
        let _ = signals::end_at_first();
    }
    match command {
        Command::Serve => bootstrap::serve::<A>(sources).await,
        Command::Check { live } => check::run::<A>(&sources, live).await,
        Command::Migrate => migrate::run::<A>(&sources).await,
        Command::Config { json } => config::run::<A>(&sources, json),
        Command::Reload { pid, wait } => reload::run::<A>(&sources, pid, wait).await,
        Command::Audit { urls, expect, ca, name } => {
            audit::run::<A>(&sources, &urls, expect, ca.as_deref(), name).await
        }
        Command::Health { probe } => health::run::<A>(&sources, probe).await,
    }
}

fn host(text: &str) -> Result<ServerName<'static>, &'static str> {
    ServerName::try_from(text.to_owned()).map_err(|_| "give the name of a host, or an address")
}

/// sqlx reads libpq's variables by itself (`PGPASSWORD`, `PGSSLKEY`, `PGOPTIONS`, …), and some of them no option can
/// override: nothing may stand in for a credential or a setting. And the AWS SDK has one with which it logs secrets.
fn forget_variables() {
    let read = |name: &str| name.starts_with("PG") || name == "LOG_SENSITIVE_BODIES";
    let names = std::env::vars_os().map(|(name, _)| name).filter(|name| read(&name.to_string_lossy()));
    for name in names.collect::<Vec<_>>() {
        // SAFETY: no other thread runs yet that could read the environment; the runtime starts later in `main`.
        #[expect(unsafe_code)]
        unsafe {
            std::env::remove_var(name);
        }
    }
}
