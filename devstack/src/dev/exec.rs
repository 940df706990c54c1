use std::ffi::OsString;
use std::process::ExitCode;

use devstack::workspace;

use super::Failure;
use super::service::Service;
use super::state;

/// A command of the service, where the one of `cargo dev` runs: `cargo dev exec audit 127.0.0.1:9090`.
#[derive(clap::Args)]
pub(crate) struct Exec {
    /// As the service takes them.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Exec {
    /// Ends as the command does.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let state = state::find()?;
        let running = state.running()?;
        let service = Service::in_place_of(running, &workspace());
        let ended = service.command(&self.arguments).status().await;
        let status = ended.map_err(|error| Failure::new(format!("cannot start the command: {error}")))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        code.map(ExitCode::from).ok_or_else(|| Failure::new(format!("the command was ended: {status}")))
    }
}
