//! Settings in environment variables.

use super::default_of;
use crate::exit::{Exit, Fault};
use figment::value::{Dict, Value};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

/// Returns the settings among the variables: `APP_SERVER__LISTEN` is `server.listen`.
///
/// A value is always text, without the blanks and ends of lines around it. figment's own provider would read it as a
/// number if it could. If the default is a list, commas separate the items. An empty variable is as one that is not set;
/// two double quotes are an empty text, which turns an optional setting off.
pub(super) fn settings(variables: &[(OsString, OsString)], defaults: &Value, faults: &mut Vec<Fault>) -> Dict {
    // Sorted: a variable of a section comes before those of its keys.
    let mut settings = BTreeMap::new();
    for (name, text) in variables {
        let name = name.to_string_lossy();
        let Some(path) = path(&name) else { continue };
        if is_of_kubernetes(&name, text) && !is_setting(&path, defaults) {
            continue;
        }
        if let [key] = &path[..] {
            faults.extend(without_effect(key, text, defaults));
            continue;
        }
        let checked = match check(&path, text) {
            Ok("") => continue,
            Ok("\"\"") => settings.insert(path, "").map_or(Ok(()), |_| Err(TWICE)),
            Ok(text) => settings.insert(path, text).map_or(Ok(()), |_| Err(TWICE)),
            Err(problem) => Err(problem),
        };
        if let Err(problem) = checked {
            faults.push(Fault::new(
                Exit::Config,
                format!("variable {name}"),
                problem,
                "write APP_<SECTION>__<KEY>=<value> once, as in APP_SERVER__LISTEN=127.0.0.1:8080",
            ));
        }
    }
    let mut dict = Dict::new();
    for (path, text) in settings {
        let value = match default_of(defaults, &path) {
            Some(Value::Array(..)) => list(text),
            _ => Value::from(text),
        };
        insert(&mut dict, &path, value);
    }
    dict
}

/// Returns the path of the setting that a variable names. No setting has a path of one level: such a variable is one of the
/// service's own, or a mistake.
fn path(name: &str) -> Option<Vec<String>> {
    let key = name.strip_prefix("APP_")?.to_ascii_lowercase();
    Some(key.split("__").map(Into::into).collect())
}

/// Returns the fault of a variable that would name a setting of the framework if it had two underscores between levels. The
/// service's own settings may have names that its own variables have too.
fn without_effect(key: &str, text: &OsStr, defaults: &Value) -> Option<Fault> {
    if text.to_string_lossy().trim().is_empty() || key.starts_with("service_") {
        return None;
    }
    let path = match key.strip_prefix("secrets_ids_") {
        Some(name) => vec!["secrets".into(), "ids".into(), name.into()],
        None => path_with_one_underscore(key, defaults)?,
    };
    let name = |separator| format!("APP_{}", path.join(separator).to_ascii_uppercase());
    Some(Fault::new(
        Exit::Config,
        format!("variable {}", name("_")),
        "it has no effect: two underscores stand between a section and its key",
        format!("rename it {}", name("__")),
    ))
}

/// Returns the path of the setting whose levels make this key, with one underscore between them.
fn path_with_one_underscore(key: &str, section: &Value) -> Option<Vec<String>> {
    let Value::Dict(_, settings) = section else { return None };
    for (level, value) in settings {
        if level == key && !matches!(value, Value::Dict(..)) {
            return Some(vec![level.clone()]);
        }
        if let Some(rest) = key.strip_prefix(level.as_str()).and_then(|rest| rest.strip_prefix('_'))
            && let Some(path) = path_with_one_underscore(rest, value)
        {
            return Some([vec![level.clone()], path].concat());
        }
    }
    None
}

/// The problem of two variables that differ in case alone.
const TWICE: &str = "another variable has the same setting, in other letters";

/// Returns `true` if Kubernetes could have injected a variable of this name for a service of the namespace, such as
/// `APP_X__Y_SERVICE_HOST`, `APP_X__Y_PORT` or `APP_X__Y_PORT_80_TCP_ADDR`. The value of `APP_X__Y_PORT` would be a URL.
fn is_of_kubernetes(name: &str, text: &OsStr) -> bool {
    let port =
        |name: &str| name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    let is_url = || text.to_string_lossy().contains("://");
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && is_url())
        || port(name)
}

/// Returns `true` if there is a setting at this path, or if its key may be any name.
fn is_setting(path: &[String], defaults: &Value) -> bool {
    let has_any_name = match path {
        [secrets, ids, _] => secrets == "secrets" && ids == "ids",
        _ => false,
    };
    has_any_name || default_of(defaults, path).is_some()
}

fn check<'a>(path: &[String], text: &'a OsStr) -> Result<&'a str, &'static str> {
    let text = text.to_str().ok_or("the value is not UTF-8")?.trim();
    if path.iter().any(String::is_empty) {
        return Err("a level of the name is empty");
    }
    let is_quoted = |quote: char| text.len() > 2 && text.starts_with(quote) && text.ends_with(quote);
    if is_quoted('"') || is_quoted('\'') {
        return Err(
            "the value is in quotes, which would be a part of it: Docker and Kubernetes keep those of a file of variables",
        );
    }
    Ok(text)
}

/// Returns the items between commas, without empty ones.
fn list(text: &str) -> Value {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Value::from(items.map(Value::from).collect::<Vec<_>>())
}

/// Inserts a value at a path, and makes the sections on the way.
fn insert(dict: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            dict.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let child = dict.entry(key.clone()).or_insert_with(|| Dict::new().into());
            if !matches!(child, Value::Dict(..)) {
                *child = Dict::new().into();
            }
            if let Value::Dict(_, child) = child {
                insert(child, rest, value);
            }
        }
    }
}
