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
        if is_of_kubernetes(&name) && !is_setting(&path, defaults) {
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

/// Returns the path of the setting that a variable names. Returns `None` if it names none.
fn path(name: &str) -> Option<Vec<String>> {
    let key = name.strip_prefix("APP_")?;
    if key.contains("__") { Some(key.to_ascii_lowercase().split("__").map(Into::into).collect()) } else { None }
}

/// The problem of two variables that differ in case alone.
const TWICE: &str = "another variable has the same setting, in other letters";

/// Returns `true` if Kubernetes could have injected a variable of this name for a service of the namespace, such as
/// `APP_X__Y_SERVICE_HOST`, `APP_X__Y_PORT` or `APP_X__Y_PORT_80_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    let port =
        |name: &str| name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.ends_with("_PORT") || port(name)
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
