//! The configuration: `default.toml`, then `<profile>.toml`, then `APP_` variables. It names credentials and never
//! holds one.
//!
//! ```text
//! files, variables ─► layers ─► lint ─► prefix ─► extract ─► bounds ─► check ─► Config<T>, or every mistake
//! ```
//!
//! Each section describes its settings ([`ConfigSection`]): their types, bounds and meaning. `config --explain` prints
//! them.
//!
//! No message quotes a value or a line, because somebody may have put a password there.

pub mod units;

pub(crate) mod base_url;
pub(crate) mod layers;
pub(crate) mod settings;

mod check;
mod explain;
mod extract;
mod iam_database;
mod lint;
mod prefix;
mod section;
mod settings_check;

pub use crate::http::client_address::ProxyNetwork;
pub use base_url::BaseUrl;
/// A size in bytes, as settings have it.
pub use bytesize::ByteSize;
pub use layers::Sources;
pub use section::{BoundedSetting, ConfigSection, Setting, UnboundedSetting};
pub use settings::{
    AdminConfig, AwsConfig, DatabaseAuth, DatabaseConfig, LogFormat, ProxyHeader, ReloadAccess, SecretsConfig,
    SecretsProvider, ServerConfig, TelemetryConfig, TlsMode, WhenStale,
    auth::{AudienceClaim, AuthConfig, TokenAlgorithm},
    connections::ConnectionsConfig,
    traces::{HeaderSetting, ProcessAttribute, TracesConfig},
    vault::{VaultAuth, VaultConfig},
};
pub use settings_check::SettingsCheck;

pub(crate) use check::is_region;
pub(crate) use explain::{effective, settings_table};
pub(crate) use iam_database::IamDatabase;

use crate::{
    blocking_reads::READ,
    credentials::{login::PostgresName, signing_keys::SigningKeys},
    exit::{Exit, Fault, Phase, Report},
    secrets::{
        aws::sdk,
        credential::{CLIENT_CA, OTLP, SERVER_TLS},
        id::SecretId,
        kind::Kind,
        spec::CredentialSpec,
    },
};
use extract::Mistake;
use figment::value::Value;
use layers::{
    Layers,
    file::{ConfigFiles, Unread},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use settings_check::SettingsMistake;
use std::collections::BTreeMap;

/// The settings of a service: its `[service]` section. Any type with these traits is one.
///
/// A key that the files and variables do not have keeps its default. [`ConfigSection`] has an example.
pub trait ServiceSettings: ConfigSection + Serialize + DeserializeOwned + Default + Send + Sync + 'static {}
impl<T: ConfigSection + Serialize + DeserializeOwned + Default + Send + Sync + 'static> ServiceSettings for T {}

/// The whole configuration, checked.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, bound = "T: Serialize + serde::de::DeserializeOwned + Default")]
pub struct Config<T> {
    /// The `[server]` section.
    pub server: ServerConfig,
    /// The `[connections]` section.
    pub connections: ConnectionsConfig,
    /// The `[auth]` section.
    pub auth: AuthConfig,
    /// The `[admin]` section.
    pub admin: AdminConfig,
    /// The `[telemetry]` section.
    pub telemetry: TelemetryConfig,
    /// The `[traces]` section.
    pub traces: TracesConfig,
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
    /// The `[admin]` section, if it has no mistake. A health probe needs no other section. Unless all was read, a part of
    /// it may be missing.
    pub admin: Option<AdminConfig>,
    /// `true` if each file and variable could be read.
    pub(crate) all_read: bool,
    /// The `[secrets]` section, if it has no mistake. An audit needs no other section.
    pub secrets: Option<Box<SecretsConfig>>,
    /// The reason for which a file could not be taken up, if there is one.
    pub(crate) unread: Option<Unread>,
}

impl ConfigError {
    /// Makes the error of a configuration whose files did not answer in time.
    pub(crate) fn of_silent_files(subject: String, remedy: &str) -> Self {
        let problem = format!("its files were not read within {} s", READ.as_secs());
        let fault = Fault::new(Exit::Config, subject, problem, remedy);
        Self {
            report: Report::of(Phase::Config, fault),
            telemetry: TelemetryConfig::default(),
            admin: None,
            all_read: false,
            secrets: None,
            unread: Some(Unread::Unreadable),
        }
    }
}

impl<T: ServiceSettings> Config<T> {
    /// Reads and checks the whole configuration. `service` is the name of the service, `specs` are its credentials.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake, if there is any.
    pub fn load(sources: &Sources, service: &'static str, specs: &[CredentialSpec]) -> Result<Self, ConfigError> {
        Self::of_files(&ConfigFiles::read(sources), sources, service, specs, |_, _| ())
    }

    /// Does the same with files that were read, and lets the service check its own settings: [`Application::check`](crate::Application::check).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn of_files(
        files: &ConfigFiles,
        sources: &Sources,
        service: &'static str,
        specs: &[CredentialSpec],
        check_service: fn(&T, &mut SettingsCheck<'_>),
    ) -> Result<Self, ConfigError> {
        let (mut layers, mut faults) = Layers::of(files, sources, defaults::<T>());
        let all_read = faults.is_empty();
        faults.extend(lint::lint(&layers));
        prefix::expand(&mut layers.tree, service);
        let (mut config, mistakes) = extract::extract::<Self>(&layers);
        let mistakes = with_bounds(mistakes, &config.settings(), &layers);
        let admin_is_right = !has_mistake_in("admin", &mistakes);
        let mut more: Vec<_> = mistakes.iter().map(|mistake| mistake.fault.clone()).collect();
        let mut of_secrets = Vec::from_iter(check::prefix(&config.secrets, &layers));
        config.use_name_of(service);
        of_secrets.extend(check::ids(&config.secrets, specs, &config.databases, &layers));
        let client_ca = config.server.client_ca.as_ref();
        of_secrets.extend(check::secrets(&config.secrets, client_ca, sdk::region_of_environment(), &layers));
        of_secrets.extend(check::vault(&config.secrets, client_ca, sources.is_strict(), &layers));
        let secrets_is_right = all_read && !has_mistake_in("secrets", &mistakes) && of_secrets.is_empty();
        more.extend(of_secrets);
        more.extend(check::databases(&config.databases, &layers));
        for database in config.iam_databases() {
            more.extend(check::iam(&database, &config.secrets, specs, &layers));
        }
        more.extend(check::listeners(&config.server, &config.admin, &layers));
        let is_signing_key = |spec: &&CredentialSpec| spec.kind == SigningKeys::NAME;
        let has_signing_key = specs.iter().filter(is_signing_key).any(|spec| config.id(spec).is_some());
        more.extend(check::remote_reload(&config.admin, has_signing_key, &layers));
        more.extend(check::auth(&config.auth, &config.server, &layers));
        more.extend(check::traces(&config.traces, &config.secrets, cfg!(feature = "otlp"), &layers));
        if all_read && !has_mistake_in("service", &mistakes) {
            let mut check = SettingsCheck::new(&config.secrets);
            check_service(&config.service, &mut check);
            more.extend(check::service(&check, &layers));
        }
        if sources.is_strict() {
            more.extend(check::strict(
                &config.server,
                &config.admin,
                &config.auth,
                &config.database,
                &config.databases,
                &layers,
            ));
        }
        // A reload compares what is written, so it must not be the first to find out that nothing can be.
        if faults.is_empty() && more.is_empty() && serde_json::to_value(&config).is_err() {
            more.push(Fault::new(
                Exit::Bug,
                "section [service]",
                "these settings can be read, and not be written as JSON: `Serialize` of the service's settings gives an error",
                "correct the code of the service; the keys of a map must be texts",
            ));
        }
        // One fault per value: the first check that refuses it says enough.
        for fault in more {
            if !faults.iter().any(|reported| reported.subject == fault.subject) {
                faults.push(fault);
            }
        }
        let Err(report) = Report::unless_clean(Phase::Config, faults) else {
            return Ok(config);
        };
        Err(ConfigError {
            report,
            telemetry: config.telemetry,
            admin: if admin_is_right { Some(config.admin) } else { None },
            all_read,
            secrets: if secrets_is_right { Some(Box::new(config.secrets)) } else { None },
            unread: layers.unread,
        })
    }

    /// Lets the service check its own settings, for a configuration that was not read from files.
    ///
    /// # Errors
    /// The report of every mistake.
    pub(crate) fn checked(&self, check_service: fn(&T, &mut SettingsCheck<'_>)) -> Result<(), Report> {
        let mut check = SettingsCheck::new(&self.secrets);
        check_service(&self.service, &mut check);
        let fault = |mistake: &SettingsMistake| {
            let problem = format!("expected {}", mistake.expected);
            Fault::new(Exit::Config, mistake.key, problem, "correct the value")
        };
        Report::unless_clean(Phase::Config, check.mistakes.iter().map(fault).collect())
    }

    /// Uses the service's name for the settings that default to it, and a section's name for its database. Uses it for an
    /// invalid prefix too, so that there are ids for the checks that follow.
    fn use_name_of(&mut self, service: &str) {
        if self.secrets.prefix.is_empty() || !prefix::is_valid(&self.secrets.prefix, self.secrets.provider) {
            service.clone_into(&mut self.secrets.prefix);
        }
        let first = (service, &mut self.database);
        let named = self.databases.iter_mut().map(|(section, database)| (section.as_str(), database));
        for (name, database) in std::iter::once(first).chain(named) {
            if database.name.is_none() {
                database.name = PostgresName::parse(name);
            }
        }
    }

    /// Returns the id under which a credential is fetched: the one of `secrets.ids`, or else `<prefix>/<name>`. Returns
    /// `None` if the credential is off.
    pub fn id(&self, spec: &CredentialSpec) -> Option<SecretId> {
        if spec.name == CLIENT_CA {
            return self.server.client_ca.clone();
        }
        if self.iam_databases().any(|database| database.replaces(spec)) {
            return None;
        }
        let configured = self.secrets.ids.get(spec.name);
        let is_on = match spec.name {
            SERVER_TLS => self.server.tls || self.admin.tls,
            OTLP => self.traces.endpoint.is_some() && configured.is_some(),
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

    /// Returns the databases whose log-ins need no secret.
    pub(crate) fn iam_databases(&self) -> impl Iterator<Item = IamDatabase<'_>> {
        IamDatabase::all(&self.database, &self.databases)
    }

    fn default_id(&self, name: &str) -> SecretId {
        let SecretsConfig { provider, prefix, vault, .. } = &self.secrets;
        let id = prefix::with_prefix(&provider.start_of_ids(&vault.mount, prefix), name);
        SecretId::parse(&id).expect("the prefix was checked and names are identifiers")
    }

    /// Returns the keys whose values differ from those of the `running` configuration and need a restart to change.
    pub fn needs_restart(&self, running: &Self) -> Vec<String> {
        if std::ptr::eq(self, running) {
            return Vec::new();
        }
        let (ours, theirs) = (self.tree(), running.tree());
        let mut changed = Vec::new();
        for setting in self.settings() {
            let pointer = format!("/{}", setting.key().replace('.', "/"));
            if setting.is_for_restart() && ours.pointer(&pointer) != theirs.pointer(&pointer) {
                changed.push(setting.key().to_owned());
            }
        }
        changed
    }

    /// Returns everything as one tree, to compare.
    ///
    /// # Panics
    /// If the service's own code panics, which writes its settings.
    pub(crate) fn tree(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("it was written once when it was read")
    }
}

impl<T: ConfigSection> ConfigSection for Config<T> {
    fn settings(&self) -> Vec<Setting> {
        let mut settings = Setting::of_section("server", &self.server);
        settings.extend(Setting::of_section("connections", &self.connections));
        settings.extend(Setting::of_section("auth", &self.auth));
        settings.extend(Setting::of_section("admin", &self.admin));
        settings.extend(Setting::of_section("telemetry", &self.telemetry));
        settings.extend(Setting::of_section("traces", &self.traces));
        settings.extend(Setting::of_section("secrets", &self.secrets));
        settings.extend(Setting::of_section("database", &self.database));
        settings.extend(Setting::of_section("databases", &self.databases));
        settings.extend(Setting::of_section("service", &self.service));
        settings
    }
}

fn defaults<T: ServiceSettings>() -> Value {
    Value::serialize(Config::<T>::default()).expect("the default settings can be serialized")
}

/// Adds a mistake for each value outside of its bounds. Puts the bounds into the text of a mistake that a setting with
/// bounds has already.
fn with_bounds(mut mistakes: Vec<Mistake>, settings: &[Setting], layers: &Layers) -> Vec<Mistake> {
    for setting in settings {
        let Some(expected) = setting.expected() else { continue };
        let path: Vec<String> = setting.key().split('.').map(str::to_owned).collect();
        let problem = format!("expected {expected}");
        match mistakes.iter_mut().find(|mistake| mistake.path == path) {
            Some(mistake) => mistake.fault.problem = problem,
            None if setting.is_within_bounds() => {}
            None => {
                let fault = layers.fault(&path, problem, "correct the value");
                mistakes.push(Mistake { path, fault });
            }
        }
    }
    mistakes
}

fn has_mistake_in(section: &str, mistakes: &[Mistake]) -> bool {
    mistakes.iter().any(|mistake| mistake.path.first().is_some_and(|key| key == section))
}

#[cfg(test)]
mod tests;
