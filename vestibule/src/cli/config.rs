//! `config [--json]`: what counts, and where it came from.

use crate::{
    Service,
    bootstrap::{self, Failed},
    config::{self, Sources},
    secrets::{All, SecretSet},
};
use serde_json::json;

pub(super) fn run<S: Service>(sources: &Sources, json: bool) -> Result<(), Failed> {
    let config = bootstrap::configure::<S>(sources)?;
    if !json {
        say!("{}", config::explain(&config, sources).trim());
        return Ok(());
    }
    let credentials: Vec<_> = All::<S::Secrets>::wanted()
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
