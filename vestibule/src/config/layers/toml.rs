//! Values as TOML.

use figment::value::{Num, Value};

/// Returns a value as TOML on one line. Returns `None` if it is empty, for which TOML has no word.
pub(in crate::config) fn value(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(toml_edit::Value::from(text.as_str()).to_string()),
        Value::Char(_, c) => Some(toml_edit::Value::from(c.to_string()).to_string()),
        Value::Bool(_, bool) => Some(bool.to_string()),
        Value::Num(_, number) => self::number(*number),
        Value::Array(_, items) => {
            let items: Vec<_> = items.iter().filter_map(self::value).collect();
            Some(format!("[{}]", items.join(", ")))
        }
        // A table in a list. Any other table is a section.
        Value::Dict(_, dict) => {
            let mut pairs = Vec::new();
            for (key, item) in dict {
                if let Some(item) = self::value(item) {
                    pairs.push(format!("{key} = {item}"));
                }
            }
            Some(format!("{{ {} }}", pairs.join(", ")))
        }
        Value::Empty(..) => None,
    }
}

fn number(number: Num) -> Option<String> {
    if let Some(integer) = number.to_u128() {
        return Some(integer.to_string());
    }
    if let Some(integer) = number.to_i128() {
        return Some(integer.to_string());
    }
    Some(number.to_f64()?.to_string())
}
