//! The check that the configuration holds no credential.

use super::layers::Layers;
use crate::exit::Fault;
use figment::value::Value;

const REMEDY: &str = "keep it at the secrets manager; remove it here, and from the history of the repository; then rotate \
     it, because somebody may have seen it. A credential is a field of the service's `Secrets`, and its id stands under \
     [secrets.ids]";

/// Returns a fault for each key that looks like a credential's, and for each value with a password in it.
pub(super) fn lint(layers: &Layers) -> Vec<Fault> {
    let mut faults = Vec::new();
    visit_below(&layers.given, &mut Vec::new(), &mut |path, value| {
        let problem = if looks_like_a_credential(path) {
            "this key looks like a credential, and the configuration never holds one"
        } else if value.as_str().is_some_and(has_password) {
            "this value has a password in it, and the configuration never holds one"
        } else {
            return;
        };
        faults.push(layers.fault(path, problem, REMEDY));
    });
    faults
}

/// Visits all values below this one.
fn visit_below(value: &Value, path: &mut Vec<String>, visit: &mut impl FnMut(&[String], &Value)) {
    let children: Vec<(String, &Value)> = match value {
        Value::Dict(_, dict) => dict.iter().map(|(key, child)| (key.clone(), child)).collect(),
        Value::Array(_, items) => items.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect(),
        _ => return,
    };
    for (key, child) in children {
        path.push(key);
        visit(path, child);
        visit_below(child, path, visit);
        path.pop();
    }
}

fn looks_like_a_credential(path: &[String]) -> bool {
    const ENDINGS: [&str; 16] = [
        "password",
        "passwd",
        "pwd",
        "dbpass",
        "passphrase",
        "passcode",
        "secret",
        "token",
        "credential",
        "credentials",
        "apikey",
        "accesskey",
        "privatekey",
        "secretkey",
        "signingkey",
        "encryptionkey",
    ];
    // A key of `[secrets.ids]` is the name of a credential, and its value is an id.
    if matches!(path, [secrets, ids, _] if secrets == "secrets" && ids == "ids") {
        return false;
    }
    let Some(key) = path.last() else { return false };
    let key: String = key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    ENDINGS.iter().any(|ending| key.ends_with(ending))
}

fn has_password(text: &str) -> bool {
    let has_password_in_url = text.split("://").skip(1).any(starts_with_password);
    has_password_in_url || text.to_ascii_lowercase().contains("password=")
}

/// Returns `true` if a URL without its scheme has a password, as in `user:password@host`.
fn starts_with_password(url: &str) -> bool {
    let is_end = |c: char| matches!(c, '/' | '?' | '#') || c.is_whitespace();
    let authority = url.split(is_end).next().unwrap_or_default();
    let Some((user_info, _)) = authority.rsplit_once('@') else { return false };
    match user_info.split_once(':') {
        Some((_, password)) => !password.is_empty(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_look_like_credentials_are_found_in_every_spelling() {
        for key in [
            "password",
            "db_password",
            "apiKey",
            "api-key",
            "API_KEY",
            "secret",
            "client_secret",
            "token",
            "accessToken",
            "signing_key",
        ] {
            assert!(looks_like_a_credential(&["service".into(), key.into()]), "{key}");
        }
        for key in ["token_lifetime", "secrets", "max_tokens", "key_id", "keyboard"] {
            assert!(!looks_like_a_credential(&["service".into(), key.into()]), "{key}");
        }
    }

    #[test]
    fn any_name_of_a_credential_is_allowed_below_secrets_ids() {
        let path = ["secrets", "ids", "payment_token"].map(String::from);
        assert!(!looks_like_a_credential(&path));
    }

    #[test]
    fn a_password_in_a_url_is_found() {
        assert!(has_password("postgres://app:hunter2@db/svc"));
        assert!(has_password("host=db user=app PASSWORD=hunter2"));
        assert!(!has_password("https://db:8080/a@b"));
        assert!(!has_password("https://app@db/svc"));
    }
}
