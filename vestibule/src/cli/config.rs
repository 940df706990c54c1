//! `config [--json]`: what counts, and where it came from.

use crate::{
    application::Application,
    bootstrap::{self, Failed},
    config::{self, layers::Sources},
    credentials::all_secrets::AllSecrets,
    secrets::set::SecretSet,
};
use serde_json::json;

pub(super) fn run<A: Application>(sources: &Sources, json: bool) -> Result<(), Failed> {
    let config = bootstrap::configure::<A>(sources)?;
    if !json {
        say!("{}", config::explain(&config, sources).trim());
        return Ok(());
    }
    let credentials: Vec<_> = AllSecrets::<A::Secrets>::specs()
        .into_iter()
        .chain([super::migrate::MIGRATOR])
        .filter_map(|wanted| {
            let id = config.id(&wanted)?;
            Some(json!({
                "name": wanted.name,
                "id": id,
                "kind": wanted.kind,
                "optional": wanted.optional,
            }))
        })
        .collect();
    let all = json!({ "settings": config.tree(), "credentials": credentials });
    say!("{all:#}");
    Ok(())
}
