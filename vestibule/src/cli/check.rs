//! `check [--live]`: checks whether a start would succeed.

use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    config::layers::Sources,
    credentials::all_secrets::AllSecrets,
    secrets::set::SecretSet,
};

pub(super) async fn run<A: Application>(
    sources: &Sources,
    manager: impl ManagerSetup<A::Settings>,
    live: bool,
) -> Result<(), CommandError> {
    let config = bootstrap::configure::<A>(sources)?;
    say!("The configuration is valid.");
    if !live {
        for spec in AllSecrets::<A::Secrets>::specs() {
            if let Some(id) = config.id(&spec) {
                say!("  credential {} will be fetched as {id}", spec.name);
            } else {
                say!("  credential {} is off: no id is configured for it", spec.name);
            }
        }
        return Ok(());
    }
    let format = config.telemetry.format;
    let (_, generation) = bootstrap::first_generation::<A>(sources, manager, config)
        .await
        .map_err(|report| CommandError { report, format })?;
    for (name, held) in generation.credentials.iter() {
        say!("  credential {name} ({}) was loaded, version {}", held.id, held.in_use());
    }
    generation.resources.close().await;
    say!("A start would succeed.");
    Ok(())
}
