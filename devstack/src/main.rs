//! `cargo dev`: the service on a local stack, in one command.

mod dev;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::dev::exec_command::ExecCommand;
use crate::dev::load_command::LoadCommand;
use crate::dev::rotate_command::RotateCommand;
use crate::dev::stack_command::StackCommand;
use crate::dev::up_command;

/// Runs the service with a PostgreSQL and a secrets manager of its own, until Ctrl-C.
#[derive(Parser)]
#[command(bin_name = "cargo dev")]
struct DevArguments {
    #[command(subcommand)]
    command: Option<DevCommand>,
}

#[derive(Subcommand)]
enum DevCommand {
    /// Rotates a credential of the running service: a login in the four steps of AWS, anything else at once.
    Rotate(RotateCommand),
    /// Runs a command of the service with the environment of the running one: `cargo dev exec audit 127.0.0.1:9090`.
    Exec(ExecCommand),
    /// Sends requests to the running service at a steady rate, and prints statistics every second.
    Load(LoadCommand),
    /// Runs the stack without the service, for a service that runs elsewhere: in the container beside it
    /// (`compose.yaml`).
    Stack(StackCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match DevArguments::parse().command {
        None => up_command::run().await,
        Some(DevCommand::Rotate(rotate)) => rotate.run().await,
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
