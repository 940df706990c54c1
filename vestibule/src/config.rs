//! The configuration: `default.toml`, then `<profile>.toml`, then `APP_` variables. It names credentials and never
//! holds one.
//!
//! ```text
//! files, variables ─► layers ─► lint ─► prefix ─► extract ─► check ─► Config<T>, or every mistake
//! ```
//!
//! No message quotes a value or a line, because somebody may have put a password there.

pub mod units;

pub(crate) mod base_url;
pub(crate) mod layers;
pub(crate) mod settings;

mod check;
mod extract;
mod lint;
mod optional_id;
mod prefix;

pub use base_url::BaseUrl;
pub use layers::Sources;
pub use settings::{
    AdminConfig, AwsConfig, DatabaseConfig, LogFormat, SecretsConfig, SecretsProvider, ServerConfig, TelemetryConfig,
    TlsMode, WhenStale,
};

use crate::{
    exit::{Phase, Report},
    secrets::{
        credential::{CLIENT_CA, SERVER_TLS},
        id::SecretId,
        spec::CredentialSpec,
    },
};
use extract::Mistake;
use figment::value::Value;
use layers::{Layers, file::Unread};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// The settings of a service: its `[service]` section. Any type with these traits is one.
///
/// A key that the files and variables do not have keeps its default.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use std::time::Duration;
/// use vestibule::config::{BaseUrl, ServiceSettings, units};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(default)]
/// struct MySettings {
///     webhook_url: Option<BaseUrl>,
///     #[serde(with = "units::positive_duration")]
///     webhook_timeout: Duration,
/// }
///
/// impl Default for MySettings {
///     fn default() -> Self {
///         Self { webhook_url: None, webhook_timeout: Duration::from_secs(5) }
///     }
/// }
///
/// fn settings_of_a_service() -> impl ServiceSettings {
///     MySettings::default()
/// }
/// ```
pub trait ServiceSettings: Serialize + DeserializeOwned + Default + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Default + Send + Sync + 'static> ServiceSettings for T {}

/// The whole configuration, checked.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, bound = "T: Serialize + serde::de::DeserializeOwned + Default")]
pub struct Config<T> {
    /// The `[server]` section.
    pub server: ServerConfig,
    /// The `[admin]` section.
    pub admin: AdminConfig,
    /// The `[telemetry]` section.
    pub telemetry: TelemetryConfig,
    /// The `[secrets]` section.
    pub secrets: SecretsConfig,
    /// The `[database]` section.
    pub database: DatabaseConfig,
    /// The `[databases.NAME]` sections: databases besides that of `[database]`.
    pub databases: BTreeMap<String, DatabaseConfig>,
    /// The service's own `[service]` section.
    pub service: T,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{report}")]
pub struct ConfigError {
    /// Every mistake.
    pub report: Report,
    /// The `[telemetry]` section, as far as it could be read. It says how to report the mistakes.
    pub telemetry: TelemetryConfig,
    /// The `[admin]` section, if it has no mistake. A health probe needs no other section.
    pub admin: Option<AdminConfig>,
    /// The `[secrets]` section, if it has no mistake. An audit needs no other section.
    pub secrets: Option<Box<SecretsConfig>>,
    /// The reason for which a file could not be taken up, if there is one.
    pub(crate) unread: Option<Unread>,
}

impl<T: ServiceSettings> Config<T> {
    /// Reads and checks the whole configuration. `service` is the name of the service, `specs` are its credentials.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake, if there is any.
    pub fn load(sources: &Sources, service: &'static str, specs: &[CredentialSpec]) -> Result<Self, ConfigError> {
        let (mut layers, mut faults) = Layers::read(sources, defaults::<T>());
        let all_read = faults.is_empty();
        faults.extend(lint::lint(&layers));
        prefix::expand(&mut layers.tree, service);
        let (mut config, mistakes) = extract::extract::<Self>(&layers);
        let admin_is_right = all_read && !has_mistake_in("admin", &mistakes);
        let secrets_is_right = all_read && !has_mistake_in("secrets", &mistakes);
        for Mistake { fault, .. } in mistakes {
            // The lint may have reported this value.
            if !faults.iter().any(|reported| reported.subject == fault.subject) {
                faults.push(fault);
            }
        }
        config.use_name_of(service);
        faults.extend(check::ids(&config.secrets, specs, &config.databases, &layers));
        faults.extend(check::databases(&config.databases, &layers));
        faults.extend(check::listeners(&config.server, &config.admin, &layers));
        faults.extend(check::prefix(&config.secrets, &layers));
        faults.extend(check::probes(&config.secrets, &layers));
        let Err(report) = Report::unless_clean(Phase::Config, faults) else {
            return Ok(config);
        };
        Err(ConfigError {
            report,
            telemetry: config.telemetry,
            admin: if admin_is_right { Some(config.admin) } else { None },
            secrets: if secrets_is_right { Some(Box::new(config.secrets)) } else { None },
            unread: layers.unread,
        })
    }

    /// Uses the service's name for the settings that default to it, and a section's name for its database.
    fn use_name_of(&mut self, service: &str) {
        for name in [&mut self.secrets.prefix, &mut self.database.name] {
            if name.is_empty() {
                *name = service.to_owned();
            }
        }
        for (section, database) in &mut self.databases {
            if database.name.is_empty() {
                database.name.clone_from(section);
            }
        }
    }

    /// Returns the id under which a credential is fetched: the one of `secrets.ids`, or else `<prefix>/<name>`. Returns
    /// `None` if the credential is off.
    pub fn id(&self, spec: &CredentialSpec) -> Option<SecretId> {
        if spec.name == CLIENT_CA {
            return self.server.client_ca.clone();
        }
        let configured = self.secrets.ids.get(spec.name);
        let is_on = match spec.name {
            SERVER_TLS => self.server.tls || self.admin.tls,
            _ => !spec.optional || configured.is_some(),
        };
        if !is_on {
            return None;
        }
        match configured {
            Some(id) => Some(id.clone()),
            None => Some(self.default_id(spec.name)),
        }
    }

    fn default_id(&self, name: &str) -> SecretId {
        let id = prefix::with_prefix(&self.secrets.prefix, name);
        SecretId::parse(&id).expect("the prefix was checked and names are identifiers")
    }

    /// Returns the keys whose values differ from those of the `running` configuration and need a restart to change.
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let is_changed = [
            ("server.listen", self.server.listen != running.server.listen),
            ("admin.listen", self.admin.listen != running.admin.listen),
            ("telemetry.format", self.telemetry.format != running.telemetry.format),
            ("secrets.provider", self.secrets.provider != running.secrets.provider),
            ("secrets.aws", self.secrets.aws != running.secrets.aws),
        ];
        is_changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(key, _)| key).collect()
    }

    /// Returns everything as one tree, to compare.
    pub(crate) fn tree(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a configuration was read from such a tree")
    }
}

fn defaults<T: ServiceSettings>() -> Value {
    Value::serialize(Config::<T>::default()).expect("the default settings can be serialized")
}

fn has_mistake_in(section: &str, mistakes: &[Mistake]) -> bool {
    mistakes.iter().any(|mistake| mistake.path.first().is_some_and(|key| key == section))
}

/// Returns the effective configuration as TOML, each value with its source.
pub(crate) fn explain<T: ServiceSettings>(config: &Config<T>, sources: &Sources) -> String {
    let (layers, _) = Layers::read(sources, defaults::<T>());
    let effective = Value::serialize(config).expect("a configuration was read from such a tree");
    layers.explain(&effective)
}

#[cfg(test)]
mod tests;
