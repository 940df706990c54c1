//! A configuration that looks as if it held a credential is refused.

use super::layers::Layers;
use crate::exit::Fault;
use figment::value::Value;

const REMEDY: &str = "keep it at the secrets manager and take it out here, out of the history of the repository \
     too; then rotate it: it has been seen. A credential is a field of the service's `Secrets`, its id stands \
     under [secrets.ids]";

/// Every key that looks like a credential's, and every value with a password in it.
pub(super) fn look(layers: &Layers) -> Vec<Fault> {
    let mut faults = Vec::new();
    walk(&layers.given, &mut Vec::new(), &mut |path, value| {
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

fn walk(value: &Value, path: &mut Vec<String>, visit: &mut impl FnMut(&[String], &Value)) {
    let children: Vec<(String, &Value)> = match value {
        Value::Dict(_, dict) => dict.iter().map(|(key, child)| (key.clone(), child)).collect(),
        Value::Array(_, items) => items.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect(),
        _ => return,
    };
    for (key, child) in children {
        path.push(key);
        visit(path, child);
        walk(child, path, visit);
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
    if matches!(path, [secrets, ids, _] if secrets == "secrets" && ids == "ids") {
        return false;
    }
    let Some(key) = path.last() else { return false };
    let squashed: String = key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    ENDINGS.iter().any(|ending| squashed.ends_with(ending))
}

fn has_password(text: &str) -> bool {
    let in_url = text.split("://").skip(1).any(|rest| {
        let authority =
            rest.split(|c: char| matches!(c, '/' | '?' | '#') || c.is_whitespace()).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .and_then(|(user, _)| user.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty())
    });
    in_url || text.to_ascii_lowercase().contains("password=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_look_like_credentials_are_seen_in_every_spelling() {
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
    fn names_of_credentials_are_free_below_secrets_ids() {
        let path = ["secrets", "ids", "payment_token"].map(String::from);
        assert!(!looks_like_a_credential(&path));
    }

    #[test]
    fn a_password_in_a_url_is_seen() {
        assert!(has_password("postgres://app:hunter2@db/svc"));
        assert!(has_password("host=db user=app PASSWORD=hunter2"));
        assert!(!has_password("https://db:8080/a@b"));
        assert!(!has_password("https://app@db/svc"));
    }
}
