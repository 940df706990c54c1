//! The whole configuration: two files, and variables.

use crate::{PLACE, SENTINEL, assert_quotes_nothing};
use serde::{Deserialize, Serialize};
use std::{ffi::OsString, fs, path::Path, path::PathBuf, sync::LazyLock, time::Duration};
use toml_edit::{ImDocument, Item, TableLike, Value};
use vestibule::{
    ConfigSection,
    config::{BaseUrl, Config, Sources, units},
    fuzzing,
    secrets::{CredentialSpec, Stage},
};

/// The settings of a service.
#[derive(Default, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
struct Settings {
    /// A URL.
    url: Option<BaseUrl>,
    /// A duration.
    #[serde(with = "units::duration")]
    #[setting(min = "0s", max = "1d")]
    timeout: Duration,
    /// Some tags.
    tags: Vec<String>,
    /// A label.
    label: String,
    /// A ratio.
    #[setting(min = 0.0, max = 1.0)]
    ratio: f64,
    /// Some places.
    #[setting(section)]
    places: Vec<Place>,
}

#[derive(Default, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
struct Place {
    /// A name.
    name: String,
    /// A level.
    #[setting(min = 0, max = 100)]
    level: Option<i64>,
}

const SPECS: [CredentialSpec; 3] = [
    CredentialSpec { name: "database", kind: "login", stages: &[Stage::Current], optional: false },
    CredentialSpec { name: "webhook", kind: "api_key", stages: &[Stage::Current], optional: true },
    CredentialSpec { name: "reload", kind: "signing_keys", stages: &[Stage::Current], optional: false },
];

/// A folder of this process, in memory.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = parent.join(format!("fuzz-config-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder can be made");
    folder
});

/// Checks a configuration. A line `%%` separates `default.toml`, the profile's file, and the variables.
pub(crate) fn check(text: &str) {
    let mut parts = text.split("%%\n").map(with_sentinel_in_values);
    let (default, profile) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let variables = parts.next().unwrap_or_default();
    if has_sentinel_in_keys(&default) || has_sentinel_in_keys(&profile) {
        return;
    }
    fs::write(FOLDER.join("default.toml"), default).expect("a file can be written");
    fs::write(FOLDER.join("dev.toml"), profile).expect("a file can be written");
    let sources = sources_of(&variables);
    let config = match Config::<Settings>::load(&sources, "svc", &SPECS) {
        Ok(config) => config,
        Err(error) => return assert_quotes_nothing(&error.to_string()),
    };
    for spec in &SPECS {
        config.id(spec);
    }
    is_read_as_printed(&config, &sources);
}

/// Checks that the configuration that `config` prints means the same.
fn is_read_as_printed(config: &Config<Settings>, sources: &Sources) {
    let printed = fuzzing::explain(config, sources);
    fs::write(FOLDER.join("default.toml"), &printed).expect("a file can be written");
    fs::write(FOLDER.join("dev.toml"), "").expect("a file can be written");
    let again = match Config::<Settings>::load(&sources_of(""), "svc", &SPECS) {
        Ok(again) => again,
        Err(error) => panic!("{printed}\ncannot be read: {error}"),
    };
    let tree = |config| serde_json::to_value(config).expect("a configuration can be written");
    assert_eq!(tree(&again), tree(config), "{printed}");
}

/// Returns the sources with variables, one per line.
fn sources_of(variables: &str) -> Sources {
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let profile = [(OsString::from("APP_PROFILE"), OsString::from("dev"))];
    let variables = variables.filter(|(name, _)| *name != "APP_PROFILE").map(|(name, text)| (name.into(), text.into()));
    Sources::new(FOLDER.clone(), profile.into_iter().chain(variables))
}

/// Returns the lines with the sentinel in the places of their values, and without the places of their keys.
fn with_sentinel_in_values(text: &str) -> String {
    let mut lines = String::new();
    for line in text.split_inclusive('\n') {
        let (key, value) = line.split_at(line.find('=').unwrap_or(line.len()));
        lines += &key.replace(PLACE, "").replace(SENTINEL, "");
        lines += &value.replace(PLACE, SENTINEL);
    }
    lines
}

/// Returns `true` if a key contains the sentinel. Messages name keys.
fn has_sentinel_in_keys(text: &str) -> bool {
    ImDocument::parse(text).is_ok_and(|document| in_table(document.as_table()))
}

fn in_table(table: &dyn TableLike) -> bool {
    table.iter().any(|(key, item)| key.contains(SENTINEL) || in_item(item))
}

fn in_item(item: &Item) -> bool {
    match item {
        Item::Value(value) => in_value(value),
        Item::Table(table) => in_table(table),
        Item::ArrayOfTables(tables) => tables.iter().any(|table| in_table(table)),
        Item::None => false,
    }
}

fn in_value(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(in_value),
        Value::InlineTable(table) => in_table(table),
        _ => false,
    }
}
