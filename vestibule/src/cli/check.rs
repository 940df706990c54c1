//! `check [--live]`: checks whether a start would succeed.

use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    config::{Config, layers::Sources},
    credentials::all_secrets::AllSecrets,
    exit::Report,
    loader::Loader,
    secrets::set::SecretSet,
    signals::CommandSignals,
};
use std::sync::Arc;
use tokio::time::Instant;

pub(super) async fn run<A: Application>(
    sources: &Sources,
    manager: impl ManagerSetup<A::Settings>,
    signals: &CommandSignals,
    live: bool,
) -> Result<(), CommandError> {
    let config = bootstrap::configure::<A>(sources).await?;
    say!("The configuration is valid.");
    if !live {
        for database in config.iam_databases() {
            say!("  {} needs no secret: a token is signed for each log-in", database.user_at_place());
        }
        for spec in AllSecrets::<A::Secrets>::specs() {
            if let Some(id) = config.id(&spec) {
                say!("  credential {} will be fetched as {id}", spec.name);
            } else if spec.optional {
                say!("  credential {} is off: no id is configured for it", spec.name);
            }
        }
        return Ok(());
    }
    let format = config.telemetry.format;
    let checked = check_live::<A>(sources, manager, signals, config).await;
    checked.map_err(|report| CommandError { report, format })
}

/// Loads a generation as a start does, and closes it.
///
/// # Errors
/// The report of a load that fails.
async fn check_live<A: Application>(
    sources: &Sources,
    manager: impl ManagerSetup<A::Settings>,
    signals: &CommandSignals,
    config: Arc<Config<A::Settings>>,
) -> Result<(), Report> {
    let deadline = Instant::now() + config.secrets.deadline;
    let regions = Arc::new(bootstrap::regions(sources, manager, &config, deadline).await?);
    let load = async {
        let generation =
            Loader::<A>::with_regions(regions.clone(), sources.is_strict()).first_load(config, deadline).await?;
        for (name, held) in generation.credentials.iter() {
            say!("  credential {name} ({}) was loaded, version {}", held.id, held.in_use());
        }
        for database in generation.config.iam_databases() {
            say!("  {} has logged in with a token", database.user_at_place());
        }
        generation.resources.close().await;
        say!("A start would succeed.");
        Ok(())
    };
    super::close_after(&regions, signals, load).await
}
