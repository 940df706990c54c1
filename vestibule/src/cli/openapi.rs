//! `openapi`: prints the OpenAPI document of the routes. Needs no configuration, and no credential.

use crate::{
    application::Application,
    bootstrap::command_error::CommandError,
    config::settings::LogFormat,
    exit::{Phase, Report},
    http::routes,
    openapi::document,
};

pub(super) fn run<A: Application>() -> Result<(), CommandError> {
    let (_, document) = routes::collect::<A>(true, None)
        .map_err(|fault| CommandError { report: Report::of(Phase::Command, fault), format: LogFormat::Pretty })?;
    say!("{}", document::text(&document));
    Ok(())
}
