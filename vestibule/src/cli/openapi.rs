//! `openapi`: prints the OpenAPI document of the routes. Needs no configuration, and no credential.

use crate::{
    application::Application,
    bootstrap::command_error::CommandError,
    config::settings::LogFormat,
    exit::{Phase, Report},
    http::routes::{self, Guard},
    openapi::document,
};

pub(super) fn run<A: Application>(auth: bool) -> Result<(), CommandError> {
    let guard = if auth { Guard::Described } else { Guard::Off };
    let (_, document) = routes::collect::<A>(true, guard)
        .map_err(|fault| CommandError { report: Report::of(Phase::Command, fault), format: LogFormat::Pretty })?;
    say!("{}", document::text(&document));
    Ok(())
}
