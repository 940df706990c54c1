//! Extraction: from the merged layers to typed settings, with every mistake on the way.

use super::layers::Layers;
use crate::exit::Fault;
use figment::{
    Figment,
    error::Kind,
    providers::Serialized,
    value::{Dict, Empty, Tag, Value},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_ignored::Path;
use std::collections::{BTreeMap, BTreeSet};

const UNKNOWN_KEY: &str = "look for a misspelling; `config` prints every key with its value and where it came from";

/// A mistake in the value at a path.
pub(super) struct Mistake {
    pub(super) path: Vec<String>,
    pub(super) fault: Fault,
}

/// Extracts the settings, and all mistakes. A value with a mistake is replaced by its default.
///
/// figment stops at the first mistake. So this extracts again after each replacement, until no mistake is left.
pub(super) fn extract<T: DeserializeOwned + Default>(layers: &Layers) -> (T, Vec<Mistake>) {
    let mut tree = layers.tree.clone();
    let mut mistakes = Vec::new();
    let mut replaced = BTreeSet::new();
    let mut switched_off = BTreeMap::new();
    loop {
        let figment = Figment::from(Serialized::defaults(&tree));
        let errors = match figment.extract_lossy::<WithUnknownKeys<T>>() {
            Ok(WithUnknownKeys { settings, unknown }) => {
                for path in unknown {
                    let fault = layers.fault(&path, "this key is not known", UNKNOWN_KEY);
                    mistakes.push(Mistake { path, fault });
                }
                return (settings, mistakes);
            }
            Err(errors) => errors,
        };
        for error in errors {
            let fault = layers.fault(&error.path, problem(&error.kind), "correct the value");
            // An empty text switches an optional setting off. Only its type says if it is one: any other has a mistake
            // again.
            if switch_off(&mut tree, &error.path) {
                switched_off.insert(error.path, fault);
                continue;
            }
            let fault = switched_off.remove(&error.path).unwrap_or(fault);
            mistakes.push(Mistake { path: error.path.clone(), fault });
            // At the second mistake, the path has its default already. So the default is wrong: a bug in the service's
            // `Settings`.
            let is_first = replaced.insert(error.path.clone());
            if !is_first || !replace_by_default(&mut tree, &layers.defaults, &error.path) {
                return (T::default(), mistakes);
            }
        }
    }
}

/// Returns what was expected. Never uses figment's or serde's own text, because both quote the input.
fn problem(kind: &Kind) -> String {
    match kind {
        // The words of serde for a section, which would name a type of Rust.
        Kind::InvalidType(_, expected) if expected.starts_with("struct ") || expected == "a map" => {
            "expected a section with keys".into()
        }
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
            format!("expected {expected}")
        }
        Kind::UnknownVariant(_, expected) => format!("expected one of: {}", expected.join(", ")),
        Kind::UnknownField(_, expected) => {
            format!("a key here is not known; the known keys are: {}", expected.join(", "))
        }
        Kind::MissingField(name) => format!("`{name}` is missing"),
        Kind::DuplicateField(name) => format!("`{name}` is here twice"),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "the number is out of range".into(),
        _ => "this value cannot be used here".into(),
    }
}

/// Removes the value at a path if it is an empty text. Returns `false` if it is something else.
fn switch_off(tree: &mut Value, path: &[String]) -> bool {
    let Some((key, parents)) = path.split_last() else { return false };
    let value = section(tree, parents).and_then(|parent| parent.get_mut(key));
    let Some(value) = value.filter(|value| value.as_str() == Some("")) else { return false };
    *value = Value::Empty(Tag::Default, Empty::None);
    true
}

/// Replaces the value at a path by its default, or removes it if it has none. Returns `false` if there is nothing to
/// replace.
fn replace_by_default(tree: &mut Value, defaults: &Value, path: &[String]) -> bool {
    // The path may lead into a list. Then the whole list is replaced.
    for length in (1..=path.len()).rev() {
        let (key, parents) = (&path[length - 1], &path[..length - 1]);
        let Some(parent) = section(tree, parents) else { continue };
        match defaults.find_ref(&path[..length].join(".")) {
            Some(default) => parent.insert(key.clone(), default.clone()),
            None => parent.remove(key),
        };
        return true;
    }
    false
}

/// Returns the section at a path.
fn section<'a>(tree: &'a mut Value, path: &[String]) -> Option<&'a mut Dict> {
    let Value::Dict(_, dict) = tree else { return None };
    let mut dict = dict;
    for key in path {
        match dict.get_mut(key)? {
            Value::Dict(_, child) => dict = child,
            _ => return None,
        }
    }
    Some(dict)
}

/// Settings, and the paths of the keys that they do not have.
struct WithUnknownKeys<T> {
    settings: T,
    unknown: Vec<Vec<String>>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for WithUnknownKeys<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut unknown = Vec::new();
        let settings = serde_ignored::deserialize(deserializer, |path| unknown.push(keys(&path)))?;
        Ok(Self { settings, unknown })
    }
}

/// Returns the keys of a path. One in quotes may have dots in it.
fn keys(path: &Path<'_>) -> Vec<String> {
    let (parent, key) = match path {
        Path::Root => return Vec::new(),
        Path::Map { parent, key } => (parent, key.clone()),
        Path::Seq { parent, index } => (parent, index.to_string()),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            return keys(parent);
        }
    };
    let mut keys = keys(parent);
    keys.push(key);
    keys
}
