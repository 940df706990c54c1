//! The texts that `config` prints: the effective configuration, and the table of all settings.

use super::{
    Config, ConfigSection, DatabaseConfig, ServiceSettings, Setting, defaults,
    layers::{Layers, Sources, toml},
    settings::vault::VaultIssueConfig,
};
use figment::value::Value;
use std::fmt::Write;

/// Returns the effective configuration as TOML, each value with its source.
pub(crate) fn effective<T: ServiceSettings>(config: &Config<T>, sources: &Sources) -> String {
    let (layers, _) = Layers::read(sources, defaults::<T>());
    let effective = Value::serialize(config).expect("a configuration was read from such a tree");
    layers.explain(&effective)
}

/// Returns all settings as Markdown: a table per section. Sections with names of their own, such
/// as those of databases, have one section: `databases.NAME`.
pub(crate) fn settings_table<T: ServiceSettings>() -> String {
    let mut config = Config::<T>::default();
    config.databases.insert("NAME".into(), DatabaseConfig::default());
    config.secrets.vault.issue.insert("NAME".into(), VaultIssueConfig::default());
    let tree = Value::serialize(&config).expect("the default settings can be serialized");
    let mut text = String::new();
    let mut section_before = "";
    let settings = config.settings();
    for setting in &settings {
        let (section, key) = setting.key().rsplit_once('.').unwrap_or(("", setting.key()));
        if section != section_before {
            let _ = write!(text, "\n## [{section}]\n\n{HEAD}");
            section_before = section;
        }
        let default = tree.find_ref(setting.key()).and_then(toml::value).filter(|text| text != "{  }");
        let _ = writeln!(text, "{}", row(key, setting, default.as_deref()));
    }
    text.trim().to_owned()
}

const HEAD: &str = "| key | type | default | bounds | a change needs | meaning |\n|---|---|---|---|---|---|\n";

fn row(key: &str, setting: &Setting, default: Option<&str>) -> String {
    let default = default.map(|default| format!("`{default}`")).unwrap_or_default();
    let bounds = setting.bounds().unwrap_or_default();
    let change = if setting.is_for_restart() { "restart" } else { "reload" };
    let (kind, sentence) = (setting.type_name(), setting.sentence());
    format!("| `{key}` | {kind} | {default} | {bounds} | {change} | {sentence} |")
}
