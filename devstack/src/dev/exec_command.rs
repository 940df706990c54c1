use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use devstack::workspace;

use super::Failure;
use super::dev_state;
use super::service_program::Service;

/// A command of the service, where the one of `cargo dev` runs: `cargo dev exec audit 127.0.0.1:9090`.
#[derive(clap::Args)]
pub(crate) struct ExecCommand {
    /// As the service takes them.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl ExecCommand {
    /// Becomes that command, so that its exit code and signals to it are its own. Returns only if it cannot be.
    pub(crate) fn run(self) -> Result<Infallible, Failure> {
        let state = dev_state::find()?;
        let running = state.running()?;
        let service = Service::in_place_of(running, &workspace());
        let error = service.command(&self.arguments).as_std_mut().exec();
        Err(Failure::new(format!("cannot start the command: {error}")))
    }
}
