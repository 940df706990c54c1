//! Tests of the whole configuration, from files and variables in a folder.

mod credentials;
mod databases;
mod ids;
mod layers;
mod mistakes;

use super::*;
use crate::{credentials::login::Login, secrets::version::Stage};
use std::{
    ffi::OsString,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

#[derive(Debug, Serialize, Deserialize, vestibule_derive::ConfigSection)]
#[serde(default)]
struct TestSettings {
    /// The items on a page.
    #[setting(min = 1, max = 100, zero)]
    page: usize,
    /// A label.
    label: String,
    /// Some tags.
    tags: Vec<String>,
    /// The name of a webhook.
    webhook: Option<String>,
    /// The most items that are kept.
    #[setting(min = 1, max = 100)]
    keep: Option<u32>,
    /// Some places.
    #[setting(section)]
    places: BTreeMap<String, TestPlace>,
}

#[derive(Debug, Default, Serialize, Deserialize, vestibule_derive::ConfigSection)]
#[serde(default)]
struct TestPlace {
    /// A URL.
    url: Option<BaseUrl>,
    /// A port.
    #[setting(min = 1, max = 65535)]
    port: Option<u32>,
}

impl Default for TestSettings {
    fn default() -> Self {
        let (label, tags, places) = Default::default();
        Self { page: 0, label, tags, webhook: None, keep: Some(10), places }
    }
}

const SPECS: [CredentialSpec; 3] = [
    CredentialSpec { name: "database", kind: Login::NAME, stages: &[Stage::Current], optional: false },
    CredentialSpec { name: "webhook", kind: "api_key", stages: &[Stage::Current], optional: true },
    CredentialSpec { name: "reload", kind: SigningKeys::NAME, stages: &[Stage::Current], optional: false },
];

/// Vault, and an id below the prefix.
const VAULT: &str = "[secrets]\nprovider = \"vault\"\n[secrets.vault]\naddresses = [\"https://vault.internal\"]\n\
    role = \"pay\"\n[secrets.ids]\nwebhook = \"{prefix}/hook\"\n";

/// A configuration folder of one test.
struct ConfigFolder(PathBuf);

impl ConfigFolder {
    fn new(default: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vestibule-config-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join("default.toml"), default).expect("a file");
        Self(dir)
    }

    fn with(self, file: &str, text: &str) -> Self {
        std::fs::write(self.0.join(file), text).expect("a file");
        self
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Config<TestSettings>, ConfigError> {
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Config::load(&Sources::new(self.0.clone(), variables), "svc", &SPECS)
    }

    /// Subjects without the folder, and problems.
    fn mistakes(&self, variables: &[(&str, &str)]) -> Vec<(String, String)> {
        let report = self.load(variables).expect_err("there are mistakes").report;
        assert_eq!(report.exit(), Exit::Config);
        let folder = format!("{}/", self.0.display());
        report.faults().iter().map(|fault| (fault.subject.replace(&folder, ""), fault.problem.clone())).collect()
    }
}

impl Drop for ConfigFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = ConfigFolder::new("").load(&[]).unwrap();
    assert_eq!(config.server, ServerConfig::default());
    assert_eq!(config.secrets.prefix, "svc");
    assert_eq!(config.database.name(), "svc");
    assert_eq!(config.id(&SPECS[0]).unwrap().as_str(), "svc/database");
    assert_eq!(config.id(&SPECS[1]), None);
}

#[test]
fn the_effective_configuration_names_the_source_of_each_value() {
    let folder = ConfigFolder::new(
        "[server]\ndrain = \"1s\"\nbody_limit = \"1100 KiB\"\n[secrets]\nrevoked = [\"v2\", \"v1\"]\n\
         [secrets.ids]\nwebhook = \"{prefix}/webhook\"\n",
    );
    let sources = Sources::new(folder.0.clone(), [("APP_SERVICE__PAGE".into(), "7".into())]);
    let config = Config::<TestSettings>::load(&sources, "svc", &SPECS).unwrap();
    let text = effective(&config, &sources);
    assert!(text.contains("page = 7  # variable APP_SERVICE__PAGE"), "{text}");
    assert!(text.contains("default.toml:2"), "{text}");
    assert!(text.contains("max_connections = 10  # default"), "{text}");
    assert!(text.contains("# webhook is not set"), "{text}");
    assert!(text.contains("provider = \"aws\"  # default"), "{text}");
    assert!(text.contains("body_limit = \"1100 KiB\""), "{text}");
    assert!(text.contains("revoked = [\"v1\", \"v2\"]"), "{text}");
    let id = text.lines().find(|line| line.starts_with("webhook = \"svc/webhook\"")).expect("the id that counts");
    assert!(id.ends_with("default.toml:7"), "{id}");
    let printed: toml_edit::ImDocument<String> = text.parse().expect("it is TOML");
    assert_eq!(printed["server"]["drain"].as_str(), Some("1s"));
}

#[test]
fn every_number_size_and_duration_has_bounds_and_its_default_is_within_them() {
    let mut config = Config::<TestSettings>::default();
    config.databases.insert("reports".into(), DatabaseConfig::default());
    let settings = config.settings();
    assert!(settings.iter().all(Setting::is_within_bounds));
    // Every value of the tree has a setting, and every setting a value.
    let mut keys = Vec::new();
    let tree = Value::serialize(&config).unwrap();
    leaves(&tree, "", &mut keys);
    keys.retain(|key| !key.starts_with("secrets.ids."));
    let mut described: Vec<_> = settings.iter().map(|setting| setting.key().to_owned()).collect();
    described.retain(|key| key != "secrets.ids");
    described.sort();
    keys.sort();
    assert_eq!(described, keys);
}

fn leaves(value: &Value, path: &str, keys: &mut Vec<String>) {
    let Value::Dict(_, dict) = value else {
        keys.push(path.into());
        return;
    };
    for (key, child) in dict {
        leaves(child, format!("{path}.{key}").trim_start_matches('.'), keys);
    }
}

#[test]
fn only_some_settings_need_a_restart() {
    let load = |text: &str| ConfigFolder::new(text).load(&[]).unwrap();
    let changed = load(
        "[server]\nlisten = \"127.0.0.1:1\"\ndrain = \"1s\"\n[secrets.aws]\nregions = [\"eu-west-1\"]\n[telemetry]\nformat = \"pretty\"\n",
    );
    assert_eq!(changed.needs_restart(&load("")), ["server.listen", "telemetry.format", "secrets.aws.regions"]);
}

#[test]
fn the_document_has_every_setting_of_the_framework() {
    let table = settings_table::<()>();
    let document = include_str!("../../CONFIGURATION.md");
    if !document.contains(&table) {
        let path = std::env::temp_dir().join("CONFIGURATION.md");
        let (head, _) = document.split_once("\n## [").unwrap_or((document, ""));
        std::fs::write(&path, format!("{}\n\n{table}\n", head.trim())).expect("a file");
        panic!("vestibule/CONFIGURATION.md is not what the settings say: replace it by {}", path.display());
    }
}
