//! `check [--live]`: would a start succeed?

use crate::{
    application::Application,
    bootstrap::{self, Failed},
    config::layers::Sources,
    credentials::all_secrets::AllSecrets,
    secrets::set::SecretSet,
};

pub(super) async fn run<A: Application>(sources: &Sources, live: bool) -> Result<(), Failed> {
    let config = bootstrap::configure::<A>(sources)?;
    say!("The configuration is right.");
    if !live {
        for wanted in AllSecrets::<A::Secrets>::specs() {
            if let Some(id) = config.id(&wanted) {
                say!("  credential {} will be fetched as {id}", wanted.name)
            } else {
                say!("  credential {} is off: no id is configured for it", wanted.name)
            }
        }
        return Ok(());
    }
    let format = config.telemetry.format;
    let (_, generation) =
        bootstrap::first_generation::<A>(sources, config).await.map_err(|report| Failed { report, format })?;
    for (name, held) in generation.credentials.iter() {
        say!("  credential {name} ({}) is held, version {}", held.id, held.in_use());
    }
    generation.resources.close().await;
    say!("A start would succeed.");
    Ok(())
}
