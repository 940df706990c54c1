//! `cargo dev`: the service on a local stack, in one command.

mod dev;

use std::process::ExitCode;

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
    Rotate(dev::RotateCommand),
    /// Runs a command of the service, where the running one finds its secrets: `cargo dev exec audit 127.0.0.1:9090`.
    Exec(dev::ExecCommand),
    /// Sends requests to the running service at a steady rate, and says each second how they fare.
    Load(dev::LoadCommand),
    /// Runs the stack without the service, for one that runs elsewhere: in the container beside it (`compose.yaml`).
    Stack(dev::StackCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        None => dev::up().await.map(|()| ExitCode::SUCCESS),
        Some(Command::Rotate(rotate)) => rotate.run().await.map(|()| ExitCode::SUCCESS),
        Some(Command::Load(load)) => load.run().await.map(|()| ExitCode::SUCCESS),
        Some(Command::Stack(alone)) => alone.run().await.map(|()| ExitCode::SUCCESS),
        Some(Command::Exec(exec)) => exec.run().map(|never| match never {}),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("cargo dev: {failure}");
        ExitCode::FAILURE
    })
}
