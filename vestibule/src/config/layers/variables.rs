//! Settings in environment variables.

use crate::exit::{Exit, Fault};
use figment::value::{Dict, Value};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

/// Returns the settings among the variables: `APP_SERVER__LISTEN` is `server.listen`.
///
/// A value is always text. figment's own provider would read it as a number if it could. If the default is a list, commas
/// separate the items.
pub(super) fn settings(variables: &[(OsString, OsString)], defaults: &Value, faults: &mut Vec<Fault>) -> Dict {
    // Sorted: a variable of a section comes before those of its keys.
    let mut settings = BTreeMap::new();
    for (name, text) in variables {
        let name = name.to_string_lossy();
        let Some(path) = path(&name) else { continue };
        match check(&path, text) {
            Ok(text) => {
                settings.insert(path, text);
            }
            Err(problem) => faults.push(Fault::new(
                Exit::Config,
                format!("variable {name}"),
                problem,
                "write APP_<SECTION>__<KEY>=<value>, as in APP_SERVER__LISTEN=127.0.0.1:8080",
            )),
        }
    }
    let mut dict = Dict::new();
    for (path, text) in settings {
        let value = match defaults.find_ref(&path.join(".")) {
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

fn check<'a>(path: &[String], text: &'a OsStr) -> Result<&'a str, &'static str> {
    let text = text.to_str().ok_or("the value is not UTF-8")?;
    if path.iter().any(String::is_empty) {
        return Err("a level of the name is empty");
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
