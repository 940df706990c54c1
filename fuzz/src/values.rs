//! Values of credentials: the manager's text, and each kind.

use crate::{assert_printable, assert_quotes_nothing, with_sentinel};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use serde_json::{Value, json};
use vestibule::{
    credentials::{ApiKey, ClientCa, Host, Login, PostgresName, SigningKeys, TlsIdentity, ValueText, unescaped},
    fuzzing,
    secrets::{ExposeSecret, SecretString},
};

/// Checks the text of a value, and the kinds of keys.
pub(crate) fn keys(text: &str) {
    let text = &with_sentinel(text);
    never_takes_json_for_a_secret(text);
    unescapes_as_serde_json(text);
    match fuzzing::read::<ApiKey>(text) {
        Ok(key) => {
            let key = key.expose_secret();
            assert!(!key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()));
            let again = fuzzing::read::<ApiKey>(&json!({ "api_key": key }).to_string()).ok();
            assert_eq!(again.as_ref().map(ExposeSecret::expose_secret), Some(key));
        }
        Err(error) => assert_quotes_nothing(&error),
    }
    if let Err(error) = fuzzing::read::<SigningKeys>(text) {
        assert_quotes_nothing(&error);
    }
}

fn never_takes_json_for_a_secret(text: &str) {
    match ValueText::of(text, "a value") {
        Ok(ValueText::Bare(bare)) => {
            assert_eq!(text.trim_start_matches('\u{feff}'), bare);
            assert!(!matches!(serde_json::from_str(bare), Ok(Value::Object(_) | Value::Array(_) | Value::String(_))));
        }
        Ok(ValueText::Json(object)) => assert!(object.contains('{')),
        Err(error) => assert_quotes_nothing(&error.to_string()),
    }
}

fn unescapes_as_serde_json(text: &str) {
    #[derive(Deserialize)]
    struct JsonString(#[serde(deserialize_with = "unescaped")] SecretString);
    let theirs = serde_json::from_str::<String>(text).ok();
    let ours = serde_json::from_str(text).ok().map(|JsonString(text)| text.expose_secret().to_owned());
    assert_eq!(ours, theirs);
}

fn password_of(login: &Login) -> &str {
    login.password.as_ref().expect("a login that was read has one").expose_secret()
}

/// Checks a login at a database.
pub(crate) fn login(text: &str) {
    let text = &with_sentinel(text);
    let login = match fuzzing::read::<Login>(text) {
        Ok(login) => login,
        Err(error) => return assert_quotes_nothing(&error),
    };
    let password = password_of(&login);
    assert!(!password.is_empty() && !password.contains('\0'));
    for name in [&login.username, &login.dbname].into_iter().flatten() {
        assert!((1..=63).contains(&name.len()) && !name.chars().any(char::is_control) && name.trim() == &**name);
        assert_eq!(PostgresName::parse(name).as_ref(), Some(name));
    }
    if let Some(host) = &login.host {
        assert!(host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_/:".contains(c)), "{host}");
        assert!(!host.contains(':') || host.parse::<std::net::Ipv6Addr>().is_ok(), "{host}");
        assert_eq!(Host::parse(host).as_ref(), Some(host));
    }
    assert_ne!(login.port, Some(0));
    let Some(username) = &login.username else {
        assert!(!password.contains(['\n', '\r']), "several lines are the password");
        assert_eq!(text.trim_start_matches('\u{feff}'), password.trim_start_matches('\u{feff}'));
        let is_invisible = |c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}';
        assert!(!text.trim_start_matches(is_invisible).starts_with('{'), "JSON is the password");
        return;
    };
    let json = json!({
        "username": **username,
        "password": password,
        "host": login.host.as_deref(),
        "port": login.port,
        "dbname": login.dbname.as_deref(),
    });
    let again = fuzzing::read::<Login>(&json.to_string()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((&again.username, &again.host, again.port), (&login.username, &login.host, login.port));
    assert_eq!((password_of(&again), &again.dbname), (password, &login.dbname));
}

/// Checks that each block of a PEM text counts.
pub(crate) fn pem(text: &str) {
    if let Err(error) = fuzzing::read::<ClientCa>(&with_sentinel(text)) {
        assert_quotes_nothing(&error);
    }
    let Some(contents) = fuzzing::pem(text) else { return };
    let begins = |text: &str| text.matches("-----BEGIN ").count();
    assert_eq!((contents.len(), contents.len()), (begins(text), text.matches("-----END ").count()));
    assert!(!contents.iter().any(Vec::is_empty));
    // A parser of others may understand less, and leave out what it does not understand, but never understands more.
    for theirs in PrivateKeyDer::pem_slice_iter(text.as_bytes()).flatten() {
        assert!(contents.iter().any(|ours| ours == theirs.secret_der()), "a key was left out");
    }
}

/// Checks the certificate of the listeners with its key.
pub(crate) fn tls(text: &str) {
    let text = &with_sentinel(text);
    for error in [fuzzing::read::<TlsIdentity>(text).err(), fuzzing::read::<ClientCa>(text).err()].iter().flatten() {
        assert_quotes_nothing(error);
    }
}

/// Checks the texts of a certificate: the log and handlers get them.
pub(crate) fn certificate(der: &[u8]) -> bool {
    let Some(texts) = fuzzing::certificate(der) else { return true };
    for text in texts {
        assert_printable(&text);
    }
    true
}
