//! `health [live|ready]`: asks the admin listener. For health checks in images without a shell or curl.

use super::admin::AdminClient;
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
    let admin = AdminClient::of::<A>(sources)?;
    let path = match probe {
        HealthProbe::Live => "/livez",
        HealthProbe::Ready => "/readyz",
    };
    let (status, body) = admin.get(path).await?;
    if status.is_success() {
        say!("{body}");
        Ok(())
    } else {
        let problem = format!("it answers {status}: {body}");
        Err(admin.error(problem, "see the reasons in the answer, and the log of the service"))
    }
}
