//! `health [live|ready]`: asks the service on this machine. For health checks in images without a shell or curl.

use super::command_connection::CommandConnection;
use crate::{application::Application, bootstrap::command_error::CommandError, config::layers::Sources};

/// The argument of `health`.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum HealthProbe {
    /// The process is alive.
    Live,
    /// The service is ready for requests.
    Ready,
}

pub(super) async fn run<A: Application>(sources: &Sources, probe: HealthProbe) -> Result<(), CommandError> {
    let mut service = CommandConnection::open_to_ask::<A>(sources).await?;
    let path = match probe {
        HealthProbe::Live => "/livez",
        HealthProbe::Ready => "/readyz",
    };
    let (status, body) = service.get(path).await?;
    if status.is_success() {
        say!("{body}");
        Ok(())
    } else {
        let problem = format!("it answers {status}: {body}");
        Err(service.error(problem, "see the reasons in the answer, and the log of the service"))
    }
}
