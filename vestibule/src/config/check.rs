//! Checks that involve more than one setting.

use super::{
    layers::Layers,
    prefix,
    settings::{AdminConfig, DatabaseConfig, SecretsConfig, ServerConfig},
};
use crate::{
    exit::Fault,
    secrets::{
        credential::{CLIENT_CA, RESERVED},
        spec::CredentialSpec,
    },
};
use std::{collections::BTreeMap, time::Duration};

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

/// Checks that a variable can name each database, and returns every mistake.
pub(super) fn databases(databases: &BTreeMap<String, DatabaseConfig>, layers: &Layers) -> Vec<Fault> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names = databases.keys().filter(|name| !name.chars().all(is_allowed) || name.contains("__"));
    let faults = names.map(|name| {
        let path = ["databases".into(), name.clone()];
        layers.fault(&path, "expected a name of lowercase letters, digits and single _", "rename the section")
    });
    faults.collect()
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
pub(super) fn ids(
    secrets: &SecretsConfig,
    specs: &[CredentialSpec],
    databases: &BTreeMap<String, DatabaseConfig>,
    layers: &Layers,
) -> Vec<Fault> {
    let migrators: Vec<String> = databases.keys().map(|name| format!("migrator_{name}")).collect();
    let mut known: Vec<&str> = specs.iter().map(|spec| spec.name).chain(RESERVED).collect();
    known.extend(migrators.iter().map(String::as_str));
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
