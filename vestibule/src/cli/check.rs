//! `check [--live]`: would a start succeed?

use crate::{
    Service,
    bootstrap::{self, Failed},
    config::Sources,
    secrets::{All, SecretSet},
};

pub(super) async fn run<S: Service>(sources: &Sources, live: bool) -> Result<(), Failed> {
    let config = bootstrap::configure::<S>(sources)?;
    say!("The configuration is right.");
    if !live {
        for wanted in All::<S::Secrets>::wanted() {
            match config.id(&wanted) {
                Some(id) => say!("  credential {} will be fetched as {id}", wanted.name),
                None => say!("  credential {} is off: no id is configured for it", wanted.name),
            }
        }
        return Ok(());
    }
    let format = config.telemetry.format;
    let (_, generation) =
        bootstrap::first_generation::<S>(sources, config).await.map_err(|report| Failed { report, format })?;
    for (name, held) in generation.keyring.iter() {
        say!("  credential {name} ({}) is held, version {}", held.id, held.in_use());
    }
    generation.resources.close().await;
    say!("A start would succeed.");
    Ok(())
}
