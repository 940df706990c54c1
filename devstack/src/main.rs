//! `cargo dev`: the service on a local stack, in one command.

mod dev;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Runs the service with a PostgreSQL and a secrets manager of its own, until Ctrl-C.
#[derive(Parser)]
#[command(bin_name = "cargo dev")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Rotates a credential of the running service: a login in the four steps of AWS, anything else at once.
    Rotate {
        /// Its name: `database`, `signing`, …
        credential: String,
        /// Do not send SIGHUP; the service finds the new version by itself, sooner or later.
        #[arg(long)]
        no_signal: bool,
        /// Stay for so many seconds in the window in which the database refuses the current password.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        linger: u64,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        None => dev::up().await,
        Some(Command::Rotate { credential, no_signal, linger }) => {
            dev::rotate(&credential, !no_signal, Duration::from_secs(linger)).await
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cargo dev: {failure}");
            ExitCode::FAILURE
        }
    }
}
