//! Checks that involve more than one setting.

use super::{
    layers::Layers,
    prefix,
    settings::{AdminConfig, SecretsConfig, ServerConfig},
};
use crate::{
    exit::Fault,
    secrets::{
        credential::{CLIENT_CA, RESERVED},
        spec::CredentialSpec,
    },
};
use std::time::Duration;

/// Checks the listeners, and returns every mistake.
pub(super) fn listeners(server: &ServerConfig, admin: &AdminConfig, layers: &Layers) -> Vec<Fault> {
    let mut faults = Vec::new();
    if server.listen == admin.listen && server.listen.port() != 0 {
        faults.push(layers.fault(
            &["admin".into(), "listen".into()],
            "this is also the address of server.listen",
            "give each listener an address of its own, and keep this one off the public network",
        ));
    }
    if server.client_ca.is_some() && !server.tls {
        faults.push(layers.fault(
            &["server".into(), "client_ca".into()],
            "clients show certificates only to a listener with TLS",
            "set server.tls = true, or leave server.client_ca empty",
        ));
    }
    faults
}

/// Checks that the prefix can begin an id.
pub(super) fn prefix(secrets: &SecretsConfig, layers: &Layers) -> Option<Fault> {
    if prefix::is_valid(&secrets.prefix) {
        return None;
    }
    let path = ["secrets".into(), "prefix".into()];
    Some(layers.fault(&path, format!("expected {}", prefix::EXPECTED), "correct the value"))
}

/// Checks that a rejected version is not tried too often or too seldom.
pub(super) fn probes(secrets: &SecretsConfig, layers: &Layers) -> Option<Fault> {
    if (Duration::from_secs(1)..=Duration::from_secs(60 * 60)).contains(&secrets.probe_every) {
        return None;
    }
    let path = ["secrets".into(), "probe_every".into()];
    let problem = "expected a duration from \"1s\" to \"1h\"";
    Some(layers.fault(&path, problem, "correct the value; a short one may lock the account out"))
}

/// Checks that each id belongs to a credential, and returns every mistake.
pub(super) fn ids(secrets: &SecretsConfig, specs: &[CredentialSpec], layers: &Layers) -> Vec<Fault> {
    let mut known: Vec<&str> = specs.iter().map(|spec| spec.name).chain(RESERVED).collect();
    // Its id is `server.client_ca`.
    known.retain(|name| *name != CLIENT_CA);
    let mut faults = Vec::new();
    for name in secrets.ids.keys() {
        if known.contains(&name.as_str()) {
            continue;
        }
        let remedy = match name.as_str() {
            CLIENT_CA => "set server.client_ca, which is its id".into(),
            _ => format!("use one of: {}", known.join(", ")),
        };
        let path = ["secrets".into(), "ids".into(), name.clone()];
        faults.push(layers.fault(&path, "no credential of this service has this name", remedy));
    }
    faults
}
