//! Checks that involve more than one setting.

mod iam;
mod vault;

pub(super) use iam::iam;
pub(super) use vault::vault;

use super::{
    layers::Layers,
    prefix,
    settings::{
        AdminConfig, DatabaseConfig, ReloadAccess, SecretsConfig, SecretsProvider, ServerConfig, TlsMode,
        auth::AuthConfig, traces::TracesConfig,
    },
    settings_check::{SettingsCheck, SettingsMistake},
};
use crate::{
    exit::Fault,
    secrets::{
        credential::{CLIENT_CA, OTLP, RESERVED},
        id::SecretId,
        spec::CredentialSpec,
    },
};
use rustls::pki_types::ServerName;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// Checks the listeners, and returns every mistake.
pub(super) fn listeners(server: &ServerConfig, admin: &AdminConfig, layers: &Layers) -> Vec<Fault> {
    let mut faults = Vec::new();
    if exclude_each_other(server.listen, admin.listen) {
        faults.push(layers.fault(
            &path(&["admin", "listen"]),
            "server.listen has this address already",
            "give each listener a port of its own, and keep this one off the public network",
        ));
    }
    if server.client_ca.is_some() && !server.tls {
        faults.push(layers.fault(
            &path(&["server", "client_ca"]),
            "clients show certificates only to a listener with TLS",
            "set server.tls = true, or leave server.client_ca empty",
        ));
    }
    for (index, name) in server.tls_names.iter().enumerate() {
        if ServerName::try_from(name.as_str()).is_err() {
            faults.push(layers.fault(
                &path(&["server", "tls_names", &index.to_string()]),
                "expected the name or the address of a host",
                "correct the value: no scheme, no port, no wildcard",
            ));
        }
    }
    faults
}

/// Checks that a signing key can verify the requests that `admin.reload` allows, and returns the mistake.
pub(super) fn remote_reload(admin: &AdminConfig, has_signing_key: bool, layers: &Layers) -> Option<Fault> {
    if admin.reload == ReloadAccess::Off || has_signing_key {
        return None;
    }
    Some(layers.fault(
        &path(&["admin", "reload"]),
        "this service has no signing key that could verify the requests",
        "add a field `Credential<SigningKeys>` to its secrets, or give the id of its optional one in [secrets.ids]; or set \
         this to \"off\"",
    ))
}

/// Checks that authentication is wholly on or wholly off, and returns every mistake.
pub(super) fn auth(auth: &AuthConfig, server: &ServerConfig, layers: &Layers) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |key: &str, problem: &str, remedy: &str| {
        faults.push(layers.fault(&path(&["auth", key]), problem, remedy));
    };
    if auth.issuer.is_empty() {
        if auth.jwks_url.is_some() || !auth.audience.is_empty() || auth.require_certificate_binding {
            let remedy = "set it, or leave auth.jwks_url, auth.audience and auth.require_certificate_binding unset too";
            add("issuer", "it is empty, so every route would be open", remedy);
        }
        return faults;
    }
    if auth.audience.is_empty() {
        let problem = "without it, the tokens for every other service of the issuer would be accepted";
        add("audience", problem, "set it to the name of this service at the issuer");
    }
    if auth.jwks_url.is_none() && auth.metadata_url().is_none() {
        let problem = "without it, no token can be verified: auth.issuer is no URL that could name its keys";
        add("jwks_url", problem, "set it to the URL of the issuer's keys");
    }
    if auth.algorithms.is_empty() {
        add("algorithms", "expected one algorithm at least", "name those that the issuer signs with");
    }
    if auth.require_certificate_binding && server.client_ca.is_none() {
        let problem = "clients show certificates only if server.client_ca is set";
        add("require_certificate_binding", problem, "set server.client_ca, or set this to false");
    }
    faults
}

/// Checks the traces and their key, and returns every mistake. `can_send` is whether this program was built with the feature
/// `otlp`.
pub(super) fn traces(traces: &TracesConfig, secrets: &SecretsConfig, can_send: bool, layers: &Layers) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |keys: &[&str], problem: &str, remedy: &str| faults.push(layers.fault(&path(keys), problem, remedy));
    if traces.endpoint.is_some() && !can_send {
        let remedy = "build it with the feature `otlp` of the crate `vestibule` (Cargo.toml), or leave this unset";
        add(&["traces", "endpoint"], "this program was built without traces", remedy);
    }
    if traces.endpoint.is_none() && secrets.ids.contains_key(OTLP) {
        add(
            &["secrets", "ids", OTLP],
            "traces are off, so nothing needs this key",
            "set traces.endpoint, or remove it",
        );
    }
    faults
}

/// Returns `true` if a process cannot listen at both addresses.
fn exclude_each_other(one: SocketAddr, other: SocketAddr) -> bool {
    let is_one_address = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && is_one_address
}

/// Returns the mistakes that the service found in its own settings.
pub(super) fn service(check: &SettingsCheck<'_>, layers: &Layers) -> Vec<Fault> {
    let fault = |mistake: &SettingsMistake| {
        let path: Vec<String> = mistake.key.split('.').map(str::to_owned).collect();
        layers.fault(&path, format!("expected {}", mistake.expected), "correct the value")
    };
    check.mistakes.iter().map(fault).collect()
}

/// Checks that each setting that weakens the service is allowed by another one.
pub(super) fn strict(
    server: &ServerConfig,
    admin: &AdminConfig,
    auth: &AuthConfig,
    database: &DatabaseConfig,
    databases: &BTreeMap<String, DatabaseConfig>,
    layers: &Layers,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    if server.trusted_proxies.iter().any(|network| network.is_everybody()) {
        faults.push(layers.fault(
            &path(&["server", "trusted_proxies"]),
            "every client could say who it is, and the profile is not `dev`",
            "name the networks of your proxies alone, such as \"10.0.0.0/8\"",
        ));
    }
    if admin.listen.ip().is_unspecified() && !admin.allow_all_addresses {
        faults.push(layers.fault(
            &path(&["admin", "listen"]),
            "this address is reachable from all networks, and the profile is not `dev`",
            "listen at one address; or set admin.allow_all_addresses = true, and keep the port off the public network",
        ));
    }
    let (key, source) = match &auth.jwks_url {
        Some(url) => ("jwks_url", Some(url.clone())),
        None => ("issuer", auth.metadata_url()),
    };
    if source.is_some_and(|url| !url.is_https()) {
        faults.push(layers.fault(
            &path(&["auth", key]),
            "who can change these keys can make tokens, and the profile is not `dev`",
            "give a URL with https://",
        ));
    }
    faults.extend(unverified(&["database", "tls"], database, layers));
    for (name, database) in databases {
        faults.extend(unverified(&["databases", name, "tls"], database, layers));
    }
    faults
}

fn unverified(keys: &[&str], database: &DatabaseConfig, layers: &Layers) -> Option<Fault> {
    let is_verified = matches!(database.tls, TlsMode::VerifyCa | TlsMode::VerifyFull);
    if is_verified || database.allow_unverified_tls {
        return None;
    }
    Some(layers.fault(
        &path(keys),
        "this mode does not verify the server, and the profile is not `dev`",
        "set it to \"verify-full\" or \"verify-ca\"; or set allow_unverified_tls = true in this section",
    ))
}

/// Checks that a variable can name each database, and returns every mistake.
pub(super) fn databases(databases: &BTreeMap<String, DatabaseConfig>, layers: &Layers) -> Vec<Fault> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names = databases.keys().filter(|name| !name.chars().all(is_allowed) || name.contains("__"));
    let faults = names.map(|name| {
        layers.fault(
            &path(&["databases", name]),
            "expected a name of lowercase letters, digits and single _",
            "rename the section",
        )
    });
    faults.collect()
}

/// Checks the prefix, and returns the mistake. An empty one stands for the service's name.
pub(super) fn prefix(secrets: &SecretsConfig, layers: &Layers) -> Option<Fault> {
    if secrets.prefix.is_empty() || prefix::is_valid(&secrets.prefix, secrets.provider) {
        return None;
    }
    let problem = format!("expected {}", prefix::EXPECTED);
    Some(layers.fault(&path(&["secrets", "prefix"]), problem, "correct the value"))
}

/// Checks the Regions, and the times of polls, and returns every mistake. `region_of_environment` is the one that counts if
/// none is configured.
pub(super) fn secrets(
    secrets: &SecretsConfig,
    client_ca: Option<&SecretId>,
    region_of_environment: Option<String>,
    layers: &Layers,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !secrets.refresh_every.is_zero() && secrets.max_stale <= secrets.refresh_every {
        faults.push(layers.fault(
            &path(&["secrets", "max_stale"]),
            "credentials would be stale before the next poll",
            "make it longer than secrets.refresh_every, several times as long",
        ));
    }
    let regions = &secrets.aws.regions;
    let is_each_once = regions.iter().collect::<BTreeSet<_>>().len() == regions.len();
    if !regions.iter().all(|region| is_region(region)) || !is_each_once {
        let problem = "expected a list of Regions such as \"eu-west-1\", each once";
        faults.push(layers.fault(&path(&["secrets", "aws", "regions"]), problem, "correct the list"));
    }
    // With several Regions, each is asked for its own replica.
    let only_region = match (&regions[..], secrets.provider) {
        ([only], _) => Some((only.clone(), "secrets.aws.regions")),
        ([], SecretsProvider::Aws) => {
            region_of_environment.map(|region| (region, "the variable AWS_REGION or AWS_DEFAULT_REGION"))
        }
        _ => None,
    };
    for (place, id) in configured_ids(secrets, client_ca) {
        if let (Some((only, origin)), Some(region)) = (&only_region, id.region())
            && only != region
        {
            let remedy = "correct the Region, or give the secret's name instead of its ARN";
            faults.push(layers.fault(&place, format!("this ARN is not of the Region in {origin}"), remedy));
        }
    }
    faults
}

/// Returns each id that is configured, with the path of its setting.
fn configured_ids<'a>(
    secrets: &'a SecretsConfig,
    client_ca: Option<&'a SecretId>,
) -> impl Iterator<Item = (Vec<String>, &'a SecretId)> {
    let ids = secrets.ids.iter().map(|(name, id)| (path(&["secrets", "ids", name]), id));
    ids.chain(client_ca.map(|id| (path(&["server", "client_ca"]), id)))
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
        let path = path(&["secrets", "ids", name]);
        faults.push(layers.fault(&path, "no credential of this service has this name", remedy));
    }
    faults
}

/// Returns `true` for the name of an AWS Region. That of a zone ends with a number and a letter: `eu-west-1a`.
pub(crate) fn is_region(region: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_zone = |part: &str| part.starts_with(|c: char| c.is_ascii_digit()) && part.ends_with(char::is_alphabetic);
    region.split('-').all(|part| !part.is_empty() && part.chars().all(is_allowed) && !is_zone(part))
}

fn path(keys: &[&str]) -> Vec<String> {
    keys.iter().copied().map(str::to_owned).collect()
}
