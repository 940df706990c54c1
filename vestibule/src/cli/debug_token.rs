//! `debug-token [--for DURATION]`: prints a token of the running service. A request that bears it is logged at debug.

use super::{admin::command_error, command_connection::CommandConnection};
use crate::{
    application::Application, bootstrap::command_error::CommandError, config::layers::Sources, debug_tokens, exit::Exit,
};
use axum::http::{Request, StatusCode};
use std::time::Duration;

pub(super) async fn run<A: Application>(sources: &Sources, lifetime: Duration) -> Result<(), CommandError> {
    let mut service = CommandConnection::open::<A>(sources).await?;
    let path = format!("{}?seconds={}", debug_tokens::ROUTE, lifetime.as_secs());
    let (status, body) = service.send(Request::post(path)).await?;
    let failed = |exit, problem: &str, remedy| command_error(exit, "the debug token".into(), problem.into(), remedy);
    match status {
        StatusCode::OK => {
            say!("{body}");
            Ok(())
        }
        StatusCode::CONFLICT => Err(failed(
            Exit::Config,
            "the service has no signing key that could sign it",
            "add a field `Credential<SigningKeys>` to its secrets; if it has an optional one, give its id in [secrets.ids]",
        )),
        StatusCode::FORBIDDEN => {
            Err(failed(Exit::Denied, "the service refuses this user", "run the command as the user of the service"))
        }
        _ => {
            let problem = format!("it answers {status}");
            Err(service.error(problem, "run the command of the version that runs"))
        }
    }
}
