//! The prefix of ids. `{prefix}/` at the start of a secret's id stands for `secrets.prefix`, so that a profile, or the
//! service's name, changes all ids at once.

use super::settings::SecretsProvider;
use crate::secrets::{id::SecretId, vault::VaultPath};
use figment::value::Value;

/// The description of a valid prefix.
pub(super) const EXPECTED: &str = "the start of a secret's id: at most 300 of letters, digits and /_+=.@-; with \
    `vault`, no part between slashes is empty, `.`, `..` or `+`";

/// The longest prefix, in bytes. It leaves room for the mount of a KV engine and for the name of any credential.
const LONGEST: usize = 300;

const PLACEHOLDER: &str = "{prefix}/";

/// Returns `true` if ids at this manager can begin with the prefix.
pub(super) fn is_valid(prefix: &str, provider: SecretsProvider) -> bool {
    // Below any mount: a wrong one is a mistake of its own.
    let id = SecretId::parse(&with_prefix(&provider.start_of_ids("", prefix), "x"));
    let makes_ids = match provider {
        SecretsProvider::Aws => id.is_some(),
        SecretsProvider::Vault => id.as_ref().and_then(VaultPath::parse).is_some(),
    };
    prefix.len() <= LONGEST && makes_ids
}

/// Returns `<prefix>/<name>`, or the name if there is no prefix, as in a configuration that was not loaded. A prefix may
/// end with the slash itself.
pub(super) fn with_prefix(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.into(),
        prefix if prefix.ends_with('/') => format!("{prefix}{name}"),
        prefix => format!("{prefix}/{name}"),
    }
}

/// Puts the prefix in the place of `{prefix}/` in all ids.
///
/// Uses the name of the `service` if no prefix is configured, or if the configured one is invalid: that is one mistake,
/// not one per id.
pub(super) fn expand(tree: &mut Value, service: &str) {
    let configured = tree.find_ref("secrets.prefix").and_then(Value::as_str).unwrap_or_default();
    let provider = tree.find_ref("secrets.provider").and_then(|provider| provider.deserialize().ok());
    let provider = provider.unwrap_or(SecretsProvider::Aws);
    let is_usable = !configured.is_empty() && is_valid(configured, provider);
    let prefix = if is_usable { configured } else { service };
    let mount = tree.find_ref("secrets.vault.mount").and_then(Value::as_str).unwrap_or_default();
    let prefix = provider.start_of_ids(mount, prefix);
    if let Some(client_ca) = setting(tree, "server", "client_ca") {
        expand_id(client_ca, &prefix);
    }
    if let Some(Value::Dict(_, ids)) = setting(tree, "secrets", "ids") {
        for id in ids.values_mut() {
            expand_id(id, &prefix);
        }
    }
}

fn expand_id(id: &mut Value, prefix: &str) {
    if let Value::String(_, text) = id
        && let Some(name) = text.strip_prefix(PLACEHOLDER)
        && !name.is_empty()
    {
        *text = with_prefix(prefix, name);
    }
}

fn setting<'a>(tree: &'a mut Value, section: &str, key: &str) -> Option<&'a mut Value> {
    child(child(tree, section)?, key)
}

fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match value {
        Value::Dict(_, dict) => dict.get_mut(key),
        _ => None,
    }
}
