//! What the files and the variables say, and where each value came from.

use crate::exit::{Exit, Fault};
use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Serialized, Toml},
    value::{Dict, Map, Value},
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Write},
    io,
    path::{Path, PathBuf},
};
use toml_edit::{ImDocument, TableLike};

/// Where the configuration is read from. Captured once, read again on SIGHUP.
#[derive(Clone)]
pub struct Sources {
    /// The folder of `default.toml`.
    pub dir: PathBuf,
    /// Which `<profile>.toml` is laid over it.
    pub profile: Option<String>,
    variables: Vec<(OsString, OsString)>,
}

impl Sources {
    /// The profile in which an identity must come from the platform.
    pub const PRODUCTION: &str = "production";

    /// The folder `dir`, and what `variables` say: `APP_PROFILE`, and `APP_` settings with `__` between levels.
    pub fn new(dir: PathBuf, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let variables: Vec<_> =
            variables.into_iter().filter(|(name, _)| name.to_string_lossy().starts_with("APP_")).collect();
        let profile = variables
            .iter()
            .find(|(name, _)| name == "APP_PROFILE")
            .map(|(_, profile)| profile.to_string_lossy().into_owned())
            .filter(|profile| !profile.is_empty());
        Self { dir, profile, variables }
    }

    /// Whether this is the `production` profile.
    pub fn production(&self) -> bool {
        self.profile.as_deref() == Some(Self::PRODUCTION)
    }
}

/// Names alone: a value may be a password that is about to be refused.
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

/// One file, kept with its text so that a mistake can be told by its line.
struct File {
    path: PathBuf,
    document: ImDocument<String>,
}

/// All layers, merged.
pub(super) struct Layers {
    /// Defaults, files and variables.
    pub(super) tree: Value,
    /// Files and variables alone.
    pub(super) given: Value,
    pub(super) defaults: Value,
    figment: Figment,
    files: Vec<File>,
}

const FILE: &str = "file";
const VARIABLE: &str = "variable";

struct Layer {
    metadata: Metadata,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

impl Layers {
    pub(super) fn read(sources: &Sources, defaults: &figment::error::Result<Value>) -> (Self, Vec<Fault>) {
        let defaults = defaults.clone().expect("Settings::default() can be serialized");
        let mut faults = Vec::new();
        let mut files = Vec::new();
        let mut given = Figment::new();
        for path in paths(sources, &mut faults) {
            match read(&path) {
                Ok((document, dict)) => {
                    let metadata = Metadata::from(FILE, path.as_path());
                    files.push(File { path, document });
                    given = given.merge(Layer { metadata, dict });
                }
                Err(fault) => faults.push(fault),
            }
        }
        let variables = Layer { metadata: Metadata::named(VARIABLE), dict: variables(sources, &defaults, &mut faults) };
        let given = given.merge(variables);
        let figment = Figment::from(Serialized::defaults(&defaults)).merge(given.clone());
        let layers = Self { tree: whole(&figment), given: whole(&given), defaults, figment, files };
        (layers, faults)
    }

    /// A mistake at a path: its file and line, or its variable.
    pub(super) fn fault(&self, path: &[String], problem: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault::new(Exit::Config, self.place(path), problem, remedy)
    }

    fn place(&self, path: &[String]) -> String {
        let key = path.join(".");
        // A missing key, or an item of a list, stands where its parent stands.
        let found = (1..=path.len()).rev().find_map(|length| {
            let value = self.given.find_ref(&path[..length].join("."))?;
            Some((length, self.figment.get_metadata(value.tag())?))
        });
        match found {
            Some((length, metadata)) if metadata.name == VARIABLE => {
                let variable = path[..length].join("__").to_ascii_uppercase();
                format!("variable APP_{variable} ({key})")
            }
            Some((length, metadata)) => {
                let file = metadata.source.as_ref().and_then(|source| {
                    let path = source.file_path()?;
                    self.files.iter().find(|file| file.path == path)
                });
                match file {
                    Some(file) => format!("{} ({key})", file.place(&path[..length])),
                    None => key,
                }
            }
            None => key,
        }
    }

    /// The effective values as TOML, each with its origin.
    pub(super) fn explain(&self, effective: &Value) -> String {
        let mut text = String::new();
        self.explain_into(&mut text, effective, &mut Vec::new());
        text
    }

    fn explain_into(&self, text: &mut String, value: &Value, path: &mut Vec<String>) {
        let Value::Dict(_, dict) = value else { return };
        let (sections, leaves): (Vec<_>, Vec<_>) = dict.iter().partition(|(_, child)| matches!(child, Value::Dict(..)));
        if !path.is_empty() {
            let _ = writeln!(text, "\n[{}]", path.join("."));
        }
        for (key, leaf) in leaves {
            path.push(key.clone());
            let given = self.given.find_ref(&path.join(".")).is_some();
            let origin = if given { self.place(path) } else { "default".into() };
            let origin = origin.split(" (").next().unwrap_or_default();
            let _ = match toml(leaf) {
                Some(leaf) => writeln!(text, "{key} = {leaf}  # {origin}"),
                None => writeln!(text, "# {key} is not set"),
            };
            path.pop();
        }
        for (key, section) in sections {
            path.push(key.clone());
            self.explain_into(text, section, path);
            path.pop();
        }
    }
}

fn toml(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(toml_edit::Value::from(text.as_str()).to_string()),
        Value::Char(_, c) => Some(toml_edit::Value::from(c.to_string()).to_string()),
        Value::Bool(_, bool) => Some(bool.to_string()),
        Value::Num(_, number) => number
            .to_u128()
            .map(|whole| whole.to_string())
            .or_else(|| number.to_i128().map(|whole| whole.to_string()))
            .or_else(|| number.to_f64().map(|float| float.to_string())),
        Value::Array(_, items) => {
            let items: Vec<_> = items.iter().filter_map(toml).collect();
            Some(format!("[{}]", items.join(", ")))
        }
        // A table in a list: every other one is a section.
        Value::Dict(_, dict) => {
            let pairs: Vec<_> =
                dict.iter().filter_map(|(key, value)| Some(format!("{key} = {}", toml(value)?))).collect();
            Some(format!("{{ {} }}", pairs.join(", ")))
        }
        Value::Empty(..) => None,
    }
}

fn whole(figment: &Figment) -> Value {
    let dict = figment.data().ok().and_then(|mut profiles| profiles.remove(&Profile::Default)).unwrap_or_default();
    Value::from(dict)
}

impl File {
    fn place(&self, path: &[String]) -> String {
        match self.line(path) {
            Some(line) => format!("{}:{line}", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    fn line(&self, path: &[String]) -> Option<usize> {
        let mut table: &dyn TableLike = self.document.as_table();
        let mut at = None;
        for key in path {
            let Some((key, item)) = table.get_key_value(key) else {
                break;
            };
            at = key.span().or_else(|| item.span()).or(at);
            match item.as_table_like() {
                Some(inner) => table = inner,
                None => break,
            }
        }
        Some(line_of(self.document.raw(), at?.start))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

fn paths(sources: &Sources, faults: &mut Vec<Fault>) -> Vec<PathBuf> {
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
        Some(profile) if !profile.chars().all(is_name) => faults.push(Fault::new(
            Exit::Config,
            "variable APP_PROFILE",
            "expected the name of a profile: letters, digits, - and _",
            "set it to the name of a file in the configuration folder, without .toml",
        )),
        Some(profile) => paths.push(sources.dir.join(format!("{profile}.toml"))),
        None => {}
    }
    paths
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

fn read(path: &Path) -> Result<(ImDocument<String>, Dict), Fault> {
    let subject = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let (problem, remedy) = match error.kind() {
            io::ErrorKind::NotFound => {
                ("there is no such file".to_owned(), "create it, or correct APP_PROFILE or APP_CONFIG_DIR")
            }
            io::ErrorKind::InvalidData => ("the file is not UTF-8".into(), "save it as UTF-8"),
            kind => (format!("the file cannot be read: {kind}"), "make it readable"),
        };
        Fault::new(Exit::Config, subject.clone(), problem, remedy)
    })?;
    let wrong = |offset: Option<usize>| {
        let place = match offset {
            Some(offset) => format!("{subject}:{}", line_of(&text, offset)),
            None => subject.clone(),
        };
        Fault::new(
            Exit::Config,
            place,
            "this is not TOML",
            "correct the line: `key = value`, text in double quotes, each key and each [section] once",
        )
    };
    let document = ImDocument::parse(text.clone()).map_err(|error| wrong(error.span().map(|span| span.start)))?;
    let dict = Toml::from_str::<Dict>(&text).map_err(|error| wrong(error.span().map(|span| span.start)))?;
    Ok((document, dict))
}

/// `APP_SERVER__LISTEN` is `server.listen`. Always text, which figment's own provider would take for a number where it
/// can; where the default is a list, commas part its items.
fn variables(sources: &Sources, defaults: &Value, faults: &mut Vec<Fault>) -> Dict {
    let mut settings = BTreeMap::new();
    for (name, value) in &sources.variables {
        let shown = name.to_string_lossy();
        let Some(key) = shown.strip_prefix("APP_").filter(|key| key.contains("__")) else {
            continue;
        };
        let path: Vec<String> = key.to_ascii_lowercase().split("__").map(Into::into).collect();
        let problem = match value.to_str() {
            None => "the value is not UTF-8",
            Some(_) if path.iter().any(String::is_empty) => "a level of the name is empty",
            Some(value) => {
                settings.insert(path, value);
                continue;
            }
        };
        faults.push(Fault::new(
            Exit::Config,
            format!("variable {shown}"),
            problem,
            "write APP_<SECTION>__<KEY>=<value>, as in APP_SERVER__LISTEN=127.0.0.1:8080",
        ));
    }
    let mut dict = Dict::new();
    for (path, text) in settings {
        let list = matches!(defaults.find_ref(&path.join(".")), Some(Value::Array(..)));
        let value = if list {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::from(items.map(Value::from).collect::<Vec<_>>())
        } else {
            Value::from(text)
        };
        insert(&mut dict, &path, value);
    }
    dict
}

fn insert(dict: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            dict.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let below = dict.entry(key.clone()).or_insert_with(|| Dict::new().into());
            if !matches!(below, Value::Dict(..)) {
                *below = Dict::new().into();
            }
            if let Value::Dict(_, below) = below {
                insert(below, rest, value);
            }
        }
    }
}
