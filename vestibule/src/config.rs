//! The configuration: `default.toml`, then `<profile>.toml`, then `APP_` variables. It names credentials and never
//! holds one.
//!
//! ```text
//! files ─► layers ─► lint ─► prefix ─► extract, as often as there are mistakes ─► ids ─► Config<T>, or every mistake
//! ```
//!
//! No message quotes a value or a line: what was pasted in the wrong place may be a password.

pub mod units;

pub(crate) mod base_url;
pub(crate) mod layers;
pub(crate) mod lint;
pub(crate) mod optional_id;
pub(crate) mod prefix;
pub(crate) mod settings;

pub use base_url::BaseUrl;
pub use settings::{
    AdminConfig, AwsConfig, DatabaseConfig, LogFormat, SecretsConfig, SecretsProvider, ServerConfig, TelemetryConfig,
    TlsMode, WhenStale,
};

pub use layers::Sources;

use crate::{
    exit::{Fault, Phase, Report},
    secrets::{
        credential::{CLIENT_CA, RESERVED, SERVER_TLS},
        id::SecretId,
        spec::CredentialSpec,
    },
};
use figment::{
    Figment,
    error::Kind,
    providers::Serialized,
    value::{Dict, Value},
};
use layers::Layers;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;

/// What a service's `[service]` section must be. Its defaults are what counts where the files are silent.
pub trait Settings: Serialize + DeserializeOwned + Default + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Default + Send + Sync + 'static> Settings for T {}

/// The whole configuration, checked.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, bound = "T: Serialize + serde::de::DeserializeOwned + Default")]
#[expect(missing_docs)]
pub struct Config<T> {
    pub server: ServerConfig,
    pub admin: AdminConfig,
    pub telemetry: TelemetryConfig,
    pub secrets: SecretsConfig,
    pub database: DatabaseConfig,
    pub service: T,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{report}")]
pub struct ConfigError {
    /// Every mistake.
    pub report: Report,
    /// As far as it could be read: it says how to report.
    pub telemetry: TelemetryConfig,
    /// Where this section was right: for a probe, which other mistakes do not concern.
    pub admin: Option<AdminConfig>,
    /// Where this section was right: for an audit, which needs no other.
    pub secrets: Option<Box<SecretsConfig>>,
}

impl<T: Settings> Config<T> {
    /// Reads and checks everything, and reports every mistake at once.
    pub fn load(sources: &Sources, service: &'static str, wanted: &[CredentialSpec]) -> Result<Self, ConfigError> {
        let (mut layers, mut faults) = Layers::read(sources, &Value::serialize(Self::default()));
        let all_read = faults.is_empty();
        faults.extend(lint::look(&layers));
        prefix::expand(&mut layers.tree, service);
        let (mut config, mistakes) = Self::extract(&layers);
        let right =
            |section| all_read && !mistakes.iter().any(|(path, _)| path.first().is_some_and(|key| key == section));
        let (admin_right, secrets_right) = (right("admin"), right("secrets"));
        for (_, mistake) in mistakes {
            if !faults.iter().any(|fault| fault.subject == mistake.subject) {
                faults.push(mistake);
            }
        }
        config.name_after(service);
        faults.extend(config.check(&layers, wanted));
        match Report::unless_clean(Phase::Config, faults) {
            Ok(()) => Ok(config),
            Err(report) => Err(ConfigError {
                report,
                telemetry: config.telemetry,
                admin: admin_right.then_some(config.admin),
                secrets: secrets_right.then(|| Box::new(config.secrets)),
            }),
        }
    }

    /// figment stops at the first mistake: each is noted and set to its default, until none is left.
    fn extract(layers: &Layers) -> (Self, Vec<(Vec<String>, Fault)>) {
        let mut tree = layers.tree.clone();
        let mut faults = Vec::new();
        let mut mended = BTreeSet::new();
        loop {
            let figment = Figment::from(Serialized::defaults(&tree));
            let error = match figment.extract_lossy::<Noting<Self>>() {
                Ok(noted) => {
                    faults.extend(noted.unknown.into_iter().map(|path| {
                        let fault = layers.fault(&path, "this key is not known", KNOWN_KEYS);
                        (path, fault)
                    }));
                    return (noted.value, faults);
                }
                Err(error) => error,
            };
            for error in error {
                let path: Vec<String> = error.path.clone();
                let fault = layers.fault(&path, problem(&error.kind), "correct the value");
                faults.push((path.clone(), fault));
                // A mistake below a mended value is the default's own: a bug in the service's `Settings`.
                if !mended.insert(path.clone()) || !mend(&mut tree, &layers.defaults, &path) {
                    return (Self::default(), faults);
                }
            }
        }
    }

    fn name_after(&mut self, service: &str) {
        for name in [&mut self.secrets.prefix, &mut self.database.name] {
            if name.is_empty() {
                *name = service.to_owned();
            }
        }
    }

    fn check(&self, layers: &Layers, wanted: &[CredentialSpec]) -> Vec<Fault> {
        // The id of the client authorities is `server.client_ca`.
        let known = || wanted.iter().map(|w| w.name).chain(RESERVED).filter(|name| *name != CLIENT_CA);
        let mut faults: Vec<Fault> = self
            .secrets
            .ids
            .keys()
            .filter(|name| !known().any(|known| known == *name))
            .map(|name| {
                let path = ["secrets".into(), "ids".into(), name.clone()];
                let names = known().collect::<Vec<_>>().join(", ");
                let remedy = match name.as_str() {
                    CLIENT_CA => "set server.client_ca, which is its id".into(),
                    _ => format!("use one of: {names}"),
                };
                layers.fault(&path, "no credential of this service has this name", remedy)
            })
            .collect();
        if self.server.listen == self.admin.listen && self.server.listen.port() != 0 {
            faults.push(layers.fault(
                &["admin".into(), "listen".into()],
                "this is the address of server.listen too",
                "give each listener an address of its own, and keep this one off the public network",
            ));
        }
        if self.server.client_ca.is_some() && !self.server.tls {
            faults.push(layers.fault(
                &["server".into(), "client_ca".into()],
                "clients show certificates only where the listener speaks TLS",
                "set server.tls = true, or leave server.client_ca empty",
            ));
        }
        if !prefix::fits(&self.secrets.prefix) {
            faults.push(layers.fault(
                &["secrets".into(), "prefix".into()],
                format!("expected {}", prefix::EXPECTED),
                "correct the value",
            ));
        }
        faults
    }

    /// The id under which a credential is asked for: what `secrets.ids` says, else `<prefix>/<name>`.
    /// `None`: it is off.
    pub fn id(&self, wanted: &CredentialSpec) -> Option<SecretId> {
        let on = match wanted.name {
            CLIENT_CA => return self.server.client_ca.clone(),
            SERVER_TLS => self.server.tls || self.admin.tls,
            name => !wanted.optional || self.secrets.ids.contains_key(name),
        };
        on.then(|| self.secrets.ids.get(wanted.name).cloned().unwrap_or_else(|| self.usual_id(wanted.name)))
    }

    fn usual_id(&self, name: &str) -> SecretId {
        SecretId::parse(&prefix::id(&self.secrets.prefix, name))
            .expect("the prefix was checked and names are identifiers")
    }

    /// What only a restart can change, where `self` differs from `running`.
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        [
            ("server.listen", self.server.listen != running.server.listen),
            ("admin.listen", self.admin.listen != running.admin.listen),
            ("telemetry.format", self.telemetry.format != running.telemetry.format),
            ("secrets.provider", self.secrets.provider != running.secrets.provider),
            ("secrets.aws", self.secrets.aws != running.secrets.aws),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }

    /// Everything as one tree, to compare.
    pub(crate) fn tree(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a configuration was read from such a tree")
    }
}

/// The effective configuration as TOML, each value with where it came from.
pub(crate) fn explain<T: Settings>(config: &Config<T>, sources: &Sources) -> String {
    let (layers, _) = Layers::read(sources, &Value::serialize(Config::<T>::default()));
    let effective = Value::serialize(config).expect("a configuration was read from such a tree");
    layers.explain(&effective)
}

const KNOWN_KEYS: &str = "look for a misspelling; `config` prints every key with its value and where it came from";

/// What was expected. Never figment's or serde's own text: both quote the input.
fn problem(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
            format!("expected {expected}")
        }
        Kind::UnknownVariant(_, expected) => format!("expected one of: {}", expected.join(", ")),
        Kind::UnknownField(_, expected) => {
            format!("a key here is not known; known are: {}", expected.join(", "))
        }
        Kind::MissingField(name) => format!("`{name}` is missing"),
        Kind::DuplicateField(name) => format!("`{name}` stands here twice"),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "the number is out of range".into(),
        _ => "this value cannot be used here".into(),
    }
}

/// Puts the default in the place of what cannot be read; what has no default is taken out.
fn mend(tree: &mut Value, defaults: &Value, path: &[String]) -> bool {
    fn dict<'a>(mut at: &'a mut Value, path: &[String]) -> Option<&'a mut Dict> {
        for key in path {
            at = match at {
                Value::Dict(_, dict) => dict.get_mut(key)?,
                _ => return None,
            };
        }
        match at {
            Value::Dict(_, dict) => Some(dict),
            _ => None,
        }
    }
    // The path may lead into a list: then the list is what is mended.
    for length in (1..=path.len()).rev() {
        let (key, parents) = (&path[length - 1], &path[..length - 1]);
        if let Some(parent) = dict(tree, parents) {
            match defaults.find_ref(&path[..length].join(".")) {
                Some(default) => parent.insert(key.clone(), default.clone()),
                None => parent.remove(key),
            };
            return true;
        }
    }
    false
}

/// `T`, and the keys that it did not ask for.
struct Noting<T> {
    value: T,
    unknown: Vec<Vec<String>>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Noting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut unknown = Vec::new();
        let value = serde_ignored::deserialize(deserializer, |path| {
            let path = path.to_string();
            // `?` stands for an Option or a newtype on the way.
            unknown.push(path.split('.').filter(|key| *key != "?").map(Into::into).collect());
        })?;
        Ok(Self { value, unknown })
    }
}

#[cfg(test)]
mod tests;
