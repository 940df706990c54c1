//! A command that runs to its end.

use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::dev::error::DevError;

/// Runs a command to its end and captures its stdout. Its stderr goes to the terminal.
pub(crate) async fn run_command(command: &mut Command) -> Result<Output, DevError> {
    let cannot = |error| DevError::new(format!("cannot run cargo or the service: {error}"));
    // Not `output`, which always captures stderr, too.
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    spawned.map_err(cannot)?.wait_with_output().await.map_err(cannot)
}
