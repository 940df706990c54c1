//! The check that the configuration holds no credential.

use super::layers::Layers;
use crate::exit::Fault;
use figment::value::Value;

const REMEDY: &str = "keep it at the secrets manager; remove it here, and from the history of the repository; then rotate \
     it, because somebody may have seen it. A credential is a field of the service's `Secrets`, and its id stands under \
     [secrets.ids]. If this is no credential, add the key to secrets.not_credentials";

/// Returns a fault for each key that looks like a credential's, and for each value that looks like one.
pub(super) fn lint(layers: &Layers) -> Vec<Fault> {
    let harmless = harmless_keys(layers);
    let mut faults = Vec::new();
    visit_below(&layers.given, &mut Vec::new(), &mut |path, value| {
        let problem = if has_ids(path) || harmless.contains(&path.join(".")) {
            return;
        } else if may_be_a_credential(value)
            && !is_of_a_file(path)
            && path.last().is_some_and(|key| looks_like_a_credential(key))
        {
            "this key looks like a credential, and the configuration never holds one"
        } else if value.as_str().is_some_and(has_password) {
            "this value has a password in it, and the configuration never holds one"
        } else if is_of_a_file(path) && value.as_str().is_some_and(|value| value.starts_with('/')) {
            return;
        } else if !is_of_an_issuer(path) && value.as_str().is_some_and(looks_random) {
            "this value looks like a key or a token, and the configuration never holds one"
        } else {
            return;
        };
        faults.push(layers.fault(path, problem, REMEDY));
    });
    faults
}

/// Returns the keys of `secrets.not_credentials`.
fn harmless_keys(layers: &Layers) -> Vec<String> {
    match layers.tree.find_ref("secrets.not_credentials") {
        Some(Value::Array(_, keys)) => keys.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Returns `true` if a value can be a credential, as far as its form says. A section is none: its own values are visited too.
/// Neither is `true` or `false`, which a variable gives as text.
fn may_be_a_credential(value: &Value) -> bool {
    match value {
        Value::String(_, text) => text.parse::<bool>().is_err(),
        Value::Char(..) | Value::Num(..) | Value::Array(..) => true,
        Value::Bool(..) | Value::Empty(..) | Value::Dict(..) => false,
    }
}

/// Returns `true` if the values are ids of secrets or of versions, or the names of keys.
fn has_ids(path: &[String]) -> bool {
    match path {
        [secrets, key, ..] => secrets == "secrets" && ["ids", "revoked", "not_credentials"].contains(&key.as_str()),
        _ => false,
    }
}

/// Returns `true` if the value is the path of a file, some of which have names that look like a key's. A key in its place is
/// still found, unless it begins with a slash.
fn is_of_a_file(path: &[String]) -> bool {
    const FILES: [&str; 7] =
        ["ca", "client_cert", "client_key", "jwt_file", "role_id_file", "secret_id_file", "token_file"];
    match path {
        [secrets, vault, key] => secrets == "secrets" && vault == "vault" && FILES.contains(&key.as_str()),
        _ => false,
    }
}

/// Returns `true` if the value names an issuer of tokens, or its audience: each token has them. Issuers have random ids, as
/// those of EKS and Okta.
fn is_of_an_issuer(path: &[String]) -> bool {
    match path {
        [auth, key] => auth == "auth" && ["issuer", "jwks_url", "audience"].contains(&key.as_str()),
        _ => false,
    }
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

fn looks_like_a_credential(key: &str) -> bool {
    const ENDINGS: [&str; 27] = [
        "password",
        "passwd",
        "pwd",
        "pass",
        "passphrase",
        "passcode",
        "secret",
        "token",
        "bearer",
        "authorization",
        "jwt",
        "cookie",
        "credential",
        "credentials",
        "dsn",
        "connectionstring",
        "connstr",
        "pepper",
        "apikey",
        "accesskey",
        "privatekey",
        "secretkey",
        "signingkey",
        "encryptionkey",
        "sas",
        "pat",
        "otp",
    ];
    // Keys that open nothing. Any other `…_key` may.
    const HARMLESS: [&str; 12] = [
        "public",
        "partition",
        "sort",
        "primary",
        "foreign",
        "cache",
        "idempotency",
        "routing",
        "group",
        "lookup",
        "order",
        "message",
    ];
    let words = words(key);
    let joined = words.concat();
    if let [.., before, last] = &words[..]
        && last == "key"
    {
        return !HARMLESS.contains(&before.as_str());
    }
    // A short ending must be a word of its own: `bypass` and `compat` are no credentials.
    ENDINGS.iter().any(|ending| match ending.len() {
        ..=4 => words.last().is_some_and(|last| last == ending || *last == format!("db{ending}")),
        _ => joined.ends_with(ending),
    })
}

/// Returns the words of a key, in lowercase: `apiKey`, `api-key` and `API_KEY` have the same two.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in key.chars() {
        let begins_word = c.is_ascii_uppercase() && before.is_ascii_lowercase();
        if begins_word || !c.is_ascii_alphanumeric() {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric() {
            words.last_mut().expect("it is never empty").push(c.to_ascii_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

fn has_password(text: &str) -> bool {
    text.split("://").skip(1).any(starts_with_password) || text.split(['?', '&', ';', ' ', ',']).any(is_assignment)
}

/// Returns `true` for a text such as `password=…` or `token=…`, as in a connection string or the query of a URL.
fn is_assignment(text: &str) -> bool {
    match text.trim().split_once('=') {
        Some((key, value)) => !value.is_empty() && (looks_like_a_credential(key) || key.eq_ignore_ascii_case("sig")),
        None => false,
    }
}

/// The beginnings of keys and tokens that their issuers have published, so that people and programs find them.
const PREFIXES: [&str; 34] = [
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "rk_test_",
    "whsec_",
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxa-",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "SG.",
    "AIza",
    "ya29.",
    "eyJ",
    "hvs.",
    "hvb.",
    "npm_",
    "pypi-",
    "dop_v1_",
    "shpat_",
    "sk-proj-",
    "sk-ant-",
    "Bearer ",
    "Basic ",
    "AGE-SECRET-KEY-",
    "-----BEGIN",
];

/// Returns `true` if a text has the known beginning of a key, or a part that only a random generator writes.
fn looks_random(text: &str) -> bool {
    let has_prefix =
        |part: &str| PREFIXES.iter().any(|prefix| part.len() >= prefix.len() + 10 && part.starts_with(prefix));
    let is_in_token = |c: char| c.is_ascii_alphanumeric() || "+=_-".contains(c);
    has_prefix(text)
        || text.split(['/', '@', '=', ' ', '"']).any(has_prefix)
        || text.split(|c| !is_in_token(c)).any(is_random)
}

/// Returns `true` for 32 or more hexadecimal digits, and for 20 or more characters that change so often between letters
/// and digits as words do not.
fn is_random(token: &str) -> bool {
    let kinds = |c: char| (c.is_ascii_lowercase(), c.is_ascii_uppercase(), c.is_ascii_digit());
    let has = |kind: fn(&char) -> bool| token.chars().any(|c| kind(&c));
    let is_hex = token.len() >= 32
        && token.chars().all(|c| c.is_ascii_hexdigit())
        && has(char::is_ascii_alphabetic)
        && has(char::is_ascii_digit);
    let changes = token.chars().zip(token.chars().skip(1)).filter(|(a, b)| kinds(*a) != kinds(*b)).count();
    let is_mixed = token.len() >= 20
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_digit)
        && changes * 10 >= token.len() * 4;
    is_hex || is_mixed
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
            "dbpass",
            "pass",
            "apiKey",
            "api-key",
            "API_KEY",
            "stripe_key",
            "secret",
            "client_secret",
            "token",
            "accessToken",
            "signing_key",
            "dsn",
            "sentryDsn",
            "bearer",
            "connection_string",
            "github_pat",
        ] {
            assert!(looks_like_a_credential(key), "{key}");
        }
        for key in [
            "token_lifetime",
            "secrets",
            "max_tokens",
            "key_id",
            "keyboard",
            "key",
            "bypass",
            "compat",
            "public_key",
            "partition_key",
            "passes",
            "tls_root_cert",
        ] {
            assert!(!looks_like_a_credential(key), "{key}");
        }
    }

    #[test]
    fn ids_are_no_credentials_whatever_they_look_like() {
        for path in [["secrets", "ids", "payment_token"], ["secrets", "revoked", "0"]] {
            assert!(has_ids(&path.map(String::from)));
        }
        assert!(!has_ids(&["service", "ids", "token"].map(String::from)));
    }

    #[test]
    fn a_password_in_a_url_or_a_connection_string_is_found() {
        for text in [
            "postgres://app:hunter2@db/svc",
            "host=db user=app PASSWORD=hunter2",
            "Server=db;User Id=app;Pwd=hunter2;",
            "https://example.com/hook?token=abc",
            "https://example.com/hook?a=b&sig=abc",
            "DefaultEndpointsProtocol=https;AccountKey=abc",
        ] {
            assert!(has_password(text), "{text}");
        }
        for text in
            ["https://db:8080/a@b", "https://app@db/svc", "info,sqlx=warn", "https://example.com/?page=2", "token="]
        {
            assert!(!has_password(text), "{text}");
        }
    }

    #[test]
    fn a_key_that_a_generator_wrote_is_found_anywhere_in_a_value() {
        for text in [
            concat!("sk_li", "ve_abcdefghijklmnop"),
            concat!("https://hooks.example.com/services/T0/B0/", "a8Xk2Lq9ZrT4vN7mW3pY5c"),
            concat!("gh", "p_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            concat!("0123456789abcdef", "0123456789abcdef"),
            concat!("https://x", "oxb-1234567890-abc@example.com/"),
            concat!("k3J9xQ2mV7", "bN4pT8wL1zR6"),
        ] {
            assert!(looks_random(text), "{text}");
        }
        for text in [
            "https://example.com/hook",
            "info,my_service::outbox=debug,sqlx=warn",
            "a-service-with-a-long-name-in-production-eu-west-1",
            "5d3e7a1c-0000-4000-8000-000000000000",
            "AmazonSecretsManagerRotationForPostgreSQL16",
            "db.c9akciq32.eu-west-1.rds.amazonaws.com",
            "/etc/ssl/certs/ca-certificates.crt",
            "arn:aws:kms:eu-west-1:123456789012:key/5d3e7a1c-0000-4000-8000-000000000000",
        ] {
            assert!(!looks_random(text), "{text}");
        }
    }
}
