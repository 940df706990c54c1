//! The section `[secrets.vault]`.

use crate::config::{base_url::BaseUrl, units};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use vestibule_derive::ConfigSection;

const DEFAULT_MOUNT: &str = "kv";

/// `[secrets.vault]`: HashiCorp Vault or OpenBao, for `secrets.provider = "vault"`. A change needs a restart. The files are
/// read again at each login.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct VaultConfig {
    /// The addresses of the server, such as `https://vault.internal:8200`. Each is asked if those before it do not answer.
    /// A redirect to any other host is not followed. Outside of the `dev` profile they are `https://`.
    #[setting(restart)]
    pub addresses: Vec<BaseUrl>,
    /// The namespace; if it is empty, none is named.
    #[setting(restart)]
    pub namespace: String,
    /// The auth method with which the process logs in.
    #[setting(restart)]
    pub auth: VaultAuth,
    /// The mount of the auth method; if it is empty, the method's own name.
    #[setting(restart)]
    pub auth_mount: String,
    /// The role to log in as, for `kubernetes` and `jwt`.
    #[setting(restart)]
    pub role: String,
    /// The mount of the KV engine, version 2. A credential without an id in `ids` has the id `<mount>/data/<prefix>/<name>`.
    #[setting(restart)]
    pub mount: String,
    /// The PEM file of the authorities that sign the server's certificate; without it, those of the platform.
    #[setting(restart)]
    pub ca: Option<PathBuf>,
    /// The PEM file of a client certificate with its chain, if the server asks for one.
    #[setting(restart)]
    pub client_cert: Option<PathBuf>,
    /// The PEM file of the key of `client_cert`.
    #[setting(restart)]
    pub client_key: Option<PathBuf>,
    /// The file with the JWT for `kubernetes` and `jwt`; without it, `kubernetes` uses the token of the pod's service
    /// account.
    #[setting(restart)]
    pub jwt_file: Option<PathBuf>,
    /// The file with the role id for `approle`.
    #[setting(restart)]
    pub role_id_file: Option<PathBuf>,
    /// The file with the secret id for `approle`.
    #[setting(restart)]
    pub secret_id_file: Option<PathBuf>,
    /// The file with the token for `token_file`, which an agent keeps up to date.
    #[setting(restart)]
    pub token_file: Option<PathBuf>,
    /// The certificates to issue, by the names of their credentials.
    #[setting(section)]
    pub issue: BTreeMap<String, VaultIssueConfig>,
}

/// `[secrets.vault.issue.NAME]`: the certificate that a PKI engine issues for the credential NAME, whose id in `[secrets.ids]`
/// is like `pki/issue/ROLE`. A change needs a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct VaultIssueConfig {
    /// The common name.
    #[setting(restart)]
    pub common_name: String,
    /// Further names of hosts for which it is valid.
    #[setting(restart)]
    pub alt_names: Vec<String>,
    /// The addresses for which it is valid.
    #[setting(restart)]
    pub ip_sans: Vec<String>,
    /// The time for which it is valid. `"0s"` is what the role says.
    #[serde(with = "units::duration")]
    #[setting(min = "1m", max = "3650d", zero, restart)]
    pub ttl: Duration,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            namespace: String::new(),
            auth: VaultAuth::Kubernetes,
            auth_mount: String::new(),
            role: String::new(),
            mount: DEFAULT_MOUNT.into(),
            ca: None,
            client_cert: None,
            client_key: None,
            jwt_file: None,
            role_id_file: None,
            secret_id_file: None,
            token_file: None,
            issue: BTreeMap::new(),
        }
    }
}

/// An auth method of Vault and OpenBao.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VaultAuth {
    /// With the token of the pod's service account.
    #[default]
    Kubernetes,
    /// With a role id and a secret id.
    #[serde(rename = "approle")]
    AppRole,
    /// With a token of another issuer, such as a projected one.
    Jwt,
    /// With a token that an agent on this machine keeps in a file.
    TokenFile,
}

impl VaultAuth {
    /// Returns the mount at which the method is by default.
    pub(crate) fn default_mount(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::AppRole => "approle",
            Self::Jwt => "jwt",
            Self::TokenFile => "token",
        }
    }
}

impl VaultConfig {
    /// Returns the start of the ids in the KV engine: `<mount>/data/<prefix>`. Uses the default mount in the place of
    /// an invalid one: that is one mistake, not one per id.
    pub(crate) fn start_of_ids(mount: &str, prefix: &str) -> String {
        let mount = if Self::is_mount(mount) { mount.trim_matches('/') } else { DEFAULT_MOUNT };
        format!("{mount}/data/{prefix}")
    }

    /// Returns `true` for the path of a mount: words with slashes in between.
    pub(crate) fn is_mount(path: &str) -> bool {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let is_word = |word: &str| !matches!(word, "" | "." | "..") && word.chars().all(is_allowed);
        path.len() <= 128 && path.trim_matches('/').split('/').all(is_word)
    }

    /// Returns the mount of the auth method.
    pub(crate) fn auth_mount(&self) -> &str {
        match self.auth_mount.trim_matches('/') {
            "" => self.auth.default_mount(),
            mount => mount,
        }
    }
}
