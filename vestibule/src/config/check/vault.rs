//! The checks of `[secrets.vault]`.

use super::{configured_ids, path};
use crate::{
    config::{
        base_url::BaseUrl,
        layers::Layers,
        settings::{
            SecretsConfig, SecretsProvider,
            vault::{VaultAuth, VaultConfig},
        },
    },
    exit::Fault,
    secrets::{id::SecretId, vault::VaultPath},
};
use axum::http::HeaderValue;
use std::collections::BTreeSet;

/// Checks the settings of Vault, if it is the manager, and returns every mistake. If `strict`, each address has TLS.
pub(in crate::config) fn vault(
    secrets: &SecretsConfig,
    client_ca: Option<&SecretId>,
    strict: bool,
    layers: &Layers,
) -> Vec<Fault> {
    if secrets.provider != SecretsProvider::Vault {
        return Vec::new();
    }
    let vault = &secrets.vault;
    let mut faults = Vec::new();
    let mut add = |key: &str, problem: &str, remedy: &str| {
        faults.push(layers.fault(&path(&["secrets", "vault", key]), problem, remedy));
    };
    if vault.addresses.is_empty() {
        add("addresses", "it is empty", "set it to the server's address, such as [\"https://vault.internal:8200\"]");
    }
    if strict && !vault.addresses.iter().all(BaseUrl::is_https) {
        let problem = "an address has no TLS, and the profile is not `dev`";
        add("addresses", problem, "give each address with https://");
    }
    if HeaderValue::from_str(&vault.namespace).is_err() {
        add(
            "namespace",
            "it has characters that no header can carry",
            "remove ends of lines and other control characters from it",
        );
    }
    if !VaultConfig::is_mount(&vault.mount) {
        add("mount", "expected the path of a mount, such as \"kv\" or \"team/kv\"", "correct the value");
    }
    let id = SecretId::parse(&VaultConfig::start_of_ids(&vault.mount, "x"));
    let path_of_id = id.as_ref().and_then(VaultPath::parse);
    if path_of_id.is_some_and(|path| !path.is_in_kv(vault.mount.trim_matches('/'))) {
        let problem = "`data`, `creds`, `static-creds` or `issue` ends the path of a mount in an id";
        add("mount", problem, "use a mount without these words in its path");
    }
    if !VaultConfig::is_mount(vault.auth_mount()) {
        add("auth_mount", "expected the path of a mount, such as \"approle\"", "correct the value, without `auth/`");
    }
    if vault.client_cert.is_some() != vault.client_key.is_some() {
        add(
            "client_cert",
            "a client certificate needs its key, and a key its certificate",
            "set client_key too, or neither",
        );
    }
    if let Some(missing) = missing_for_login(vault) {
        add(missing, "the auth method needs it", "set it; or choose another method in secrets.vault.auth");
    }
    for (place, id) in configured_ids(secrets, client_ca) {
        if VaultPath::parse(id).is_none() {
            let problem = format!("expected {}", VaultPath::EXPECTED);
            faults.push(layers.fault(&place, problem, "correct the value; `{prefix}/NAME` stands for such a path too"));
        }
    }
    faults.extend(issue(secrets, layers));
    faults
}

/// Checks that each certificate to issue has its section, and each section its id.
fn issue(secrets: &SecretsConfig, layers: &Layers) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut ids = BTreeSet::new();
    let issues = |id: &SecretId| VaultPath::parse(id).is_some_and(VaultPath::issues_certificates);
    for (name, id) in secrets.ids.iter().filter(|(_, id)| issues(id)) {
        let has_name = secrets.vault.issue.get(name).is_some_and(|issue| !issue.common_name.trim().is_empty());
        if !has_name {
            let remedy = format!("set common_name in [secrets.vault.issue.{name}]");
            faults.push(layers.fault(
                &path(&["secrets", "ids", name]),
                "nothing says which certificate to issue",
                remedy,
            ));
        }
        if !ids.insert(id) {
            let problem = "another credential has the same id";
            let remedy = "issue each certificate by a role of its own";
            faults.push(layers.fault(&path(&["secrets", "ids", name]), problem, remedy));
        }
    }
    for name in secrets.vault.issue.keys() {
        if !secrets.ids.get(name).is_some_and(issues) {
            let remedy = format!("set secrets.ids.{name}, such as \"pki/issue/payments\"; or remove the section");
            let problem = "the credential of this name has no id at which certificates are issued";
            faults.push(layers.fault(&path(&["secrets", "vault", "issue", name]), problem, remedy));
        }
    }
    faults
}

/// Returns the key of a setting without which the auth method cannot log in.
fn missing_for_login(vault: &VaultConfig) -> Option<&'static str> {
    let missing = match vault.auth {
        VaultAuth::Kubernetes => [("role", vault.role.is_empty()), ("role", false)],
        VaultAuth::Jwt => [("role", vault.role.is_empty()), ("jwt_file", vault.jwt_file.is_none())],
        VaultAuth::AppRole => {
            [("role_id_file", vault.role_id_file.is_none()), ("secret_id_file", vault.secret_id_file.is_none())]
        }
        VaultAuth::TokenFile => [("token_file", vault.token_file.is_none()), ("token_file", false)],
    };
    missing.into_iter().find(|(_, is_missing)| *is_missing).map(|(key, _)| key)
}
