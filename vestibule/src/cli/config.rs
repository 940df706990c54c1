//! `config [--json | --explain]`: prints the effective configuration and the source of each value, or all settings.

use super::migrate;
use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError},
    config::{self, ConfigError, layers::Sources},
    credentials::all_secrets::AllSecrets,
    secrets::set::SecretSet,
};
use serde_json::json;

pub(super) async fn run<A: Application>(sources: &Sources, json: bool, explain: bool) -> Result<(), CommandError> {
    if explain {
        say!("{}", config::settings_table::<A::Settings>());
        return Ok(());
    }
    let config = bootstrap::configure::<A>(sources).await?;
    let format = config.telemetry.format;
    if !json {
        let text = bootstrap::read_in_time(sources, move |sources| Ok(config::effective(&config, sources))).await;
        say!("{}", text.map_err(|ConfigError { report, .. }| CommandError { report, format })?.trim());
        return Ok(());
    }
    let mut credentials = Vec::new();
    for spec in AllSecrets::<A::Secrets>::specs().into_iter().chain(migrate::specs(&A::PACKAGE)) {
        if let Some(id) = config.id(&spec) {
            credentials.push(json!({
                "name": spec.name,
                "id": id,
                "kind": spec.kind,
                "optional": spec.optional,
            }));
        }
    }
    let output = json!({ "settings": config.tree(), "credentials": credentials });
    say!("{output:#}");
    Ok(())
}
