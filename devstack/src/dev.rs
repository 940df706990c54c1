//! The commands of `cargo dev`.

mod error;

mod dev_metadata;
mod free_address;
mod project;
mod run_command;
mod service_description;
mod service_program;

mod dev_lock;
mod dev_state;

mod secrets_manager;

mod dev_client;
mod status_client;

mod api_receivers;
mod prepare_tenant;
mod progress;
mod stop_signals;

mod exec_command;
mod hints;
mod issuer_client;
mod load_command;
mod rotate_command;
mod stack_command;
mod token_command;
mod up_command;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::dev::exec_command::ExecCommand;
use crate::dev::load_command::LoadCommand;
use crate::dev::rotate_command::RotateCommand;
use crate::dev::secrets_manager::ManagerName;
use crate::dev::stack_command::StackCommand;
use crate::dev::token_command::TokenCommand;

/// Runs the service with a PostgreSQL and a secrets manager of its own, until Ctrl-C.
#[derive(Parser)]
#[command(bin_name = "cargo dev")]
#[command(args_conflicts_with_subcommands = true)]
struct DevArguments {
    /// The routes need a token, of an issuer that is started too: `cargo dev token` prints one.
    #[arg(long)]
    auth: bool,
    /// The secrets manager. The default is the one of `secrets.provider` in the configuration.
    #[arg(long, value_enum, value_name = "MANAGER")]
    secrets: Option<ManagerName>,
    /// OpenBao makes the logins of the service, and each ends after this time, as in `20s` or `1h`.
    #[arg(long, value_name = "DURATION", value_parser = lease_time)]
    ttl: Option<Duration>,
    #[command(subcommand)]
    command: Option<DevCommand>,
}

#[derive(Subcommand)]
enum DevCommand {
    /// Rotates a credential of the running service: a login in the four steps of AWS (two at OpenBao), anything else at
    /// once. A login with a lease is revoked. `auth` is the key of the issuer that `--auth` started.
    Rotate(RotateCommand),
    /// Runs a command of the service with the environment of the running one: `cargo dev exec audit 127.0.0.1:9090`.
    Exec(ExecCommand),
    /// Prints a token for the service that runs with `--auth`.
    Token(TokenCommand),
    /// Sends requests to the running service at a steady rate, and prints statistics every second.
    Load(LoadCommand),
    /// Runs the stack without the service, for a service that runs elsewhere: in the container beside it
    /// (`compose.yaml`).
    Stack(StackCommand),
}

/// Runs the command line of `cargo dev`: the service of the workspace on a local stack.
///
/// A program of the workspace calls this as its `main`, so that Cargo runs it there.
#[tokio::main]
pub async fn main() -> ExitCode {
    let arguments = DevArguments::parse();
    let outcome = match arguments.command {
        None => up_command::run(arguments.auth, arguments.secrets, arguments.ttl).await,
        Some(DevCommand::Rotate(rotate)) => rotate.run().await,
        Some(DevCommand::Token(token)) => token.run().await,
        Some(DevCommand::Load(load)) => load.run().await,
        Some(DevCommand::Stack(stack)) => stack.run().await,
        Some(DevCommand::Exec(exec)) => Err(exec.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo dev: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the value of `--ttl`. OpenBao takes `0s` for its default, which is 32 days.
fn lease_time(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_secs(5)..=Duration::from_secs(24 * 60 * 60)).contains(&time) => Ok(time),
        _ => Err("give a duration from 5s to 24h, such as 20s"),
    }
}
