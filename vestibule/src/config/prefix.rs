//! `{prefix}/` at the start of a secret's id stands for `secrets.prefix`: a profile, or the service's name, then changes
//! all ids at once.

use crate::secrets::id::SecretId;
use figment::value::{Dict, Value};

/// What the start of an id may be.
pub(super) const EXPECTED: &str = "the start of a secret's id: letters, digits and /_+=.@-, without a / at either end";

const PLACE: &str = "{prefix}/";

/// Whether ids can begin with it.
pub(super) fn fits(prefix: &str) -> bool {
    SecretId::parse(&id(prefix, "x")).is_some()
}

/// The id of this name. Without a prefix, as in a configuration that was not loaded, it is the name.
pub(super) fn id(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.into(),
        prefix => format!("{prefix}/{name}"),
    }
}

/// Puts the prefix where ids ask for it; the `service`'s name where there is none, or none that can be used: that is one
/// mistake, and not one for each id.
pub(super) fn expand(tree: &mut Value, service: &str) {
    let configured = tree.find_ref("secrets.prefix").and_then(Value::as_str).unwrap_or_default();
    let prefix = if !configured.is_empty() && fits(configured) { configured } else { service }.to_owned();
    let expand = |value: &mut Value| {
        if let Value::String(_, text) = value
            && let Some(name) = text.strip_prefix(PLACE)
        {
            *text = id(&prefix, name);
        }
    };
    let Some(tree) = dict(tree) else { return };
    if let Some(authorities) = tree.get_mut("server").and_then(dict).and_then(|server| server.get_mut("client_ca")) {
        expand(authorities);
    }
    if let Some(ids) = tree.get_mut("secrets").and_then(dict).and_then(|secrets| secrets.get_mut("ids")).and_then(dict)
    {
        ids.values_mut().for_each(expand);
    }
}

fn dict(value: &mut Value) -> Option<&mut Dict> {
    match value {
        Value::Dict(_, dict) => Some(dict),
        _ => None,
    }
}
