//! `cargo dev exec`: a command of the service, on the stack of the running `cargo dev`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use crate::dev::dev_lock;
use crate::dev::error::DevError;
use crate::dev::service_program::ServiceProgram;
use crate::stack::folders::workspace;

/// Runs a command of the service with the environment of the running one: `cargo dev exec audit 127.0.0.1:9090`.
#[derive(clap::Args)]
pub(crate) struct ExecCommand {
    /// The arguments of the service.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl ExecCommand {
    /// Replaces this process with the command. So its exit code is the command's, and signals reach the command. Returns
    /// only if that fails.
    pub(crate) fn run(self) -> DevError {
        let program = match program() {
            Ok(program) => program,
            Err(error) => return error,
        };
        let error = program.command(&self.arguments).as_std_mut().exec();
        DevError::new(format!("cannot start the command: {error}"))
    }
}

fn program() -> Result<ServiceProgram, DevError> {
    let state = dev_lock::find_running()?;
    Ok(ServiceProgram::like_running(state.ready()?, &workspace()))
}
