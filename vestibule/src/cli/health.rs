//! `health [live|ready]`: for images without a shell or curl.

use super::admin::AdminClient;
use crate::{application::Application, bootstrap::Failed, config::layers::Sources};

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Probe {
    /// The process lives.
    Live,
    /// Requests should come.
    Ready,
}

pub(super) async fn run<A: Application>(sources: &Sources, probe: Probe) -> Result<(), Failed> {
    let admin = AdminClient::of::<A>(sources)?;
    let path = match probe {
        Probe::Live => "/livez",
        Probe::Ready => "/readyz",
    };
    let (status, body) = admin.get(path).await?;
    if status.is_success() {
        say!("{body}");
        Ok(())
    } else {
        let problem = format!("it answers {status}: {body}");
        Err(admin.failed(problem, "see the reasons in its answer, and the log of the service"))
    }
}
