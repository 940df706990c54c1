//! The layers of the configuration, and the place that each value comes from.

pub(crate) mod file;
pub(super) mod toml;

mod variables;

use super::settings::vault::VaultIssueConfig;
use crate::exit::{Exit, Fault};
use figment::{
    Figment, Metadata, Profile, Provider,
    providers::Serialized,
    value::{Dict, Empty, Map, Tag, Value},
};
use file::{ConfigFile, ConfigFiles, Unread};
use std::{
    ffi::OsString,
    fmt::{self, Write},
    path::{Path, PathBuf},
};

/// The places that the configuration is read from. They are captured once, and read again on SIGHUP.
#[derive(Clone)]
pub struct Sources {
    /// The folder of `default.toml`.
    pub dir: PathBuf,
    /// The name of the profile. `<profile>.toml` is laid over `default.toml`.
    pub profile: Option<String>,
    variables: Vec<(OsString, OsString)>,
}

impl Sources {
    /// The profile in which settings may weaken the service. In any other profile, and without one, each of them must be
    /// allowed by a setting of its own.
    pub const DEVELOPMENT: &str = "dev";

    /// Captures the folder `dir` and the variables that begin with `APP_`: `APP_PROFILE`, and settings with `__` between
    /// levels.
    ///
    /// ```
    /// use vestibule::config::Sources;
    ///
    /// let variables = [("APP_PROFILE", "production"), ("APP_SERVER__LISTEN", "[::]:8080")];
    /// let variables = variables.map(|(name, value)| (name.into(), value.into()));
    /// assert!(Sources::new("config".into(), variables).is_strict());
    /// ```
    pub fn new(dir: PathBuf, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let variables: Vec<_> =
            variables.into_iter().filter(|(name, _)| name.to_string_lossy().starts_with("APP_")).collect();
        let profile = variables.iter().find(|(name, _)| name == "APP_PROFILE");
        let profile = profile.map(|(_, profile)| profile.to_string_lossy().trim().to_owned());
        Self { dir, profile: profile.filter(|profile| !profile.is_empty()), variables }
    }

    /// Returns the same variables without files.
    pub(crate) fn without_files(&self) -> Self {
        // No file can be below it, so each read ends at once.
        Self { dir: "/dev/null".into(), ..self.clone() }
    }

    /// Returns `true` unless the profile is [`DEVELOPMENT`](Self::DEVELOPMENT).
    pub fn is_strict(&self) -> bool {
        self.profile.as_deref() != Some(Self::DEVELOPMENT)
    }
}

/// Shows the names of variables only. A value may be a password that is about to be refused.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<_> = self.variables.iter().map(|(name, _)| name).collect();
        f.debug_struct("Sources")
            .field("dir", &self.dir)
            .field("profile", &self.profile)
            .field("variables", &variables)
            .finish()
    }
}

/// All layers, merged.
pub(super) struct Layers {
    /// Defaults, files and variables.
    pub(super) tree: Value,
    /// Files and variables, without the defaults.
    pub(super) given: Value,
    pub(super) defaults: Value,
    /// The reason for which a file could not be taken up, if there is one. That of a file which cannot be read wins.
    pub(super) unread: Option<Unread>,
    figment: Figment,
    files: Vec<ConfigFile>,
}

/// One file, or all variables, as figment takes them.
struct LayerProvider {
    metadata: Metadata,
    dict: Dict,
}

// The names of layers in figment's metadata.
const FILE: &str = "file";
const VARIABLE: &str = "variable";

impl Provider for LayerProvider {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

impl Layers {
    /// Reads and merges all layers. The faults are those of files and variables that cannot be read.
    pub(super) fn read(sources: &Sources, defaults: Value) -> (Self, Vec<Fault>) {
        Self::of(&ConfigFiles::read(sources), sources, defaults)
    }

    /// Merges all layers. The faults are as those of [`read`](Self::read).
    pub(super) fn of(read: &ConfigFiles, sources: &Sources, defaults: Value) -> (Self, Vec<Fault>) {
        let mut faults = read.faults.clone();
        let mut files = Vec::new();
        let mut given = Figment::new();
        let mut unread = if sources.dir.is_dir() { None } else { Some(Unread::Unreadable) };
        for (path, text) in &read.texts {
            let metadata = Metadata::from(FILE, path.as_path());
            match ConfigFile::parse(path, text) {
                Ok((file, mut dict)) => {
                    files.push(file);
                    dict.values_mut().for_each(trim);
                    given = given.merge(LayerProvider { metadata, dict });
                }
                Err((reason, fault)) => {
                    unread = unread.max(Some(reason));
                    faults.push(fault);
                }
            }
        }
        let dict = variables::settings(&sources.variables, &defaults, &mut faults);
        given = given.merge(LayerProvider { metadata: Metadata::named(VARIABLE), dict });
        let figment = Figment::from(Serialized::defaults(&defaults)).merge(given.clone());
        let mut tree = merged(&figment);
        turn_off(&mut tree, &defaults, &mut Vec::new());
        let layers = Self { tree, given: merged(&given), defaults, unread, figment, files };
        (layers, faults)
    }

    /// Returns the fault of the value at a path. Its subject is the file and line, or the variable.
    pub(super) fn fault(&self, path: &[String], problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
        let key = path.join(".");
        let subject = match self.source(path) {
            Some(source) => format!("{source} ({key})"),
            None => key,
        };
        Fault::new(Exit::Config, subject, problem, remedy)
    }

    /// Returns the file and line of the value at a path, or its variable.
    fn source(&self, path: &[String]) -> Option<String> {
        let (given_path, metadata) = self.nearest_given(path)?;
        if metadata.name == VARIABLE {
            return Some(format!("variable APP_{}", given_path.join("__").to_ascii_uppercase()));
        }
        let file_path = metadata.source.as_ref()?.file_path()?;
        let file = self.files.iter().find(|file| file.path == file_path)?;
        Some(file.place(given_path))
    }

    /// Returns the path of the nearest value that a file or a variable gives, and its layer. An item of a list has the place of
    /// its list, and a missing key that of its section in a file. No variable is a section.
    fn nearest_given<'a>(&self, path: &'a [String]) -> Option<(&'a [String], &Metadata)> {
        for length in (1..=path.len()).rev() {
            let start = &path[..length];
            if let Some(value) = value_at(&self.given, start)
                && let Some(metadata) = self.figment.get_metadata(value.tag())
                && (length == path.len() || metadata.name != VARIABLE || !matches!(value, Value::Dict(..)))
            {
                return Some((start, metadata));
            }
        }
        None
    }

    /// Returns the effective values as TOML, each with its source.
    pub(super) fn explain(&self, effective: &Value) -> String {
        let mut text = String::new();
        if let Value::Dict(_, dict) = effective {
            self.explain_section(&mut text, dict, &mut Vec::new());
        }
        text
    }

    fn explain_section(&self, text: &mut String, section: &Dict, path: &mut Vec<String>) {
        if !path.is_empty() {
            let _ = writeln!(text, "\n[{}]", path.join("."));
        }
        // The values of a section stand before its subsections.
        for (key, value) in section {
            if matches!(value, Value::Dict(..)) {
                continue;
            }
            path.push(key.clone());
            let _ = match toml::value(value) {
                Some(value) => writeln!(text, "{key} = {value}  # {}", self.source_or_default(path)),
                None => writeln!(text, "# {key} is not set"),
            };
            path.pop();
        }
        for (key, value) in section {
            if let Value::Dict(_, subsection) = value {
                path.push(key.clone());
                self.explain_section(text, subsection, path);
                path.pop();
            }
        }
    }

    fn source_or_default(&self, path: &[String]) -> String {
        let key = path.join(".");
        if self.given.find_ref(&key).is_none() {
            return "default".into();
        }
        self.source(path).unwrap_or(key)
    }
}

/// Returns the value at a path. figment's own search would take a key with dots for a path.
fn value_at<'a>(tree: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut value = tree;
    for key in path {
        let Value::Dict(_, dict) = value else { return None };
        value = dict.get(key)?;
    }
    Some(value)
}

/// Removes the blanks and ends of lines around each text. A tool may have added them, and no setting needs them.
fn trim(value: &mut Value) {
    match value {
        Value::String(_, text) if text.trim().len() < text.len() => *text = text.trim().to_owned(),
        Value::Array(_, items) => items.iter_mut().for_each(trim),
        Value::Dict(_, dict) => dict.values_mut().for_each(trim),
        _ => {}
    }
}

/// Turns off each optional setting, and each id of a credential, that is an empty text.
fn turn_off(value: &mut Value, defaults: &Value, path: &mut Vec<String>) {
    let Value::Dict(_, dict) = value else { return };
    if matches!(&path[..], [secrets, ids] if secrets == "secrets" && ids == "ids") {
        dict.retain(|_, id| id.as_str() != Some(""));
        return;
    }
    for (key, child) in dict {
        path.push(key.clone());
        let is_optional = matches!(default_of(defaults, path), Some(Value::Empty(..)));
        if is_optional && child.as_str() == Some("") {
            *child = Value::Empty(Tag::Default, Empty::None);
        }
        turn_off(child, defaults, path);
        path.pop();
    }
}

/// Returns the default of the setting at a path. Each named database has the defaults of `[database]`, and each certificate
/// that Vault issues has the same ones.
fn default_of(defaults: &Value, path: &[String]) -> Option<Value> {
    match path {
        [databases, _, key] if databases == "databases" => defaults.find_ref(&format!("database.{key}")).cloned(),
        [secrets, vault, issue, _, key] if secrets == "secrets" && vault == "vault" && issue == "issue" => {
            Value::serialize(VaultIssueConfig::default()).ok()?.find(key)
        }
        path => defaults.find_ref(&path.join(".")).cloned(),
    }
}

fn merged(figment: &Figment) -> Value {
    let dict = match figment.data() {
        Ok(mut profiles) => profiles.remove(&Profile::Default).unwrap_or_default(),
        Err(_) => Dict::new(),
    };
    Value::from(dict)
}

/// Returns the files to read: `default.toml`, and the one of the profile.
fn paths(sources: &Sources, faults: &mut Vec<Fault>) -> Vec<PathBuf> {
    if is_env_file(&sources.dir) || sources.profile.as_deref().is_some_and(|profile| is_env_file(Path::new(profile))) {
        faults.push(Fault::new(
            Exit::Config,
            "the configuration",
            "APP_CONFIG_DIR, --config-dir or APP_PROFILE names a .env file, and this service reads none: people keep \
             credentials in such files",
            "write settings into default.toml or a profile, and put credentials at the secrets manager",
        ));
        return Vec::new();
    }
    if !sources.dir.is_dir() {
        faults.push(Fault::new(
            Exit::Config,
            format!("configuration folder {}", sources.dir.display()),
            "there is no such folder",
            "name the folder of default.toml with --config-dir or APP_CONFIG_DIR",
        ));
        return Vec::new();
    }
    let mut paths = vec![sources.dir.join("default.toml")];
    match &sources.profile {
        Some(profile) if profile.chars().all(is_allowed_in_profile) => {
            paths.push(sources.dir.join(format!("{profile}.toml")));
        }
        Some(_) => faults.push(Fault::new(
            Exit::Config,
            "variable APP_PROFILE",
            "expected the name of a profile: letters, digits, - and _",
            "set it to the name of a file in the configuration folder, without .toml",
        )),
        None => {}
    }
    paths
}

/// Returns `true` for `.env`, `.env.local`, `prod.env` and their like.
fn is_env_file(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let name = name.to_ascii_lowercase();
    name == ".env" || name.starts_with(".env.") || name.ends_with(".env")
}

fn is_allowed_in_profile(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}
