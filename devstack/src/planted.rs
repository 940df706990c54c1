use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};

const SENTINEL: &str = "sentinel-";

/// Fields of a secret that are not secret.
const PUBLIC: [&str; 7] = ["engine", "username", "host", "port", "dbname", "certificate", "tls.crt"];

/// Every secret value that a test has planted, to look for wherever it must not be.
#[derive(Clone, Default)]
pub struct Planted(Arc<Mutex<Vec<Value>>>);

#[derive(Clone)]
struct Value {
    credential: String,
    text: String,
}

impl Planted {
    /// Remembers what is secret in `value`.
    pub fn remember(&self, credential: &str, value: &str) {
        let mut values = self.values();
        for text in secrets_in(value) {
            // A blank or tiny value, planted to be refused, would be found everywhere.
            if text.trim().len() >= 8 && !values.iter().any(|value| value.text == text) {
                values.push(Value { credential: credential.into(), text });
            }
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.values().iter().map(|value| value.text.clone()).collect()
    }

    /// # Panics
    /// If a planted value is in `text`, naming the credential and never the value.
    #[track_caller]
    pub fn assert_absent(&self, what: &str, text: &str) {
        let leaks: Vec<_> = self.values().iter().filter_map(|value| value.leak(text)).collect();
        assert!(leaks.is_empty(), "{what} holds the secret of {}", leaks.join(", "));
    }

    /// `text` with the credential's name in place of every planted value.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in self.values().iter() {
            for (_, form) in value.forms() {
                text = text.replace(&form, &format!("[{}]", value.credential));
            }
        }
        text
    }

    fn values(&self) -> MutexGuard<'_, Vec<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Value {
    fn leak(&self, text: &str) -> Option<String> {
        let (how, _) = self.forms().into_iter().find(|(_, form)| text.contains(form))?;
        Some(format!("`{}` ({how})", self.credential))
    }

    fn forms(&self) -> Vec<(&'static str, String)> {
        let bytes = self.text.as_bytes();
        let debug = format!("{:?}", self.text);
        let json = serde_json::Value::from(self.text.as_str()).to_string();
        let mut forms = vec![
            ("as it is", self.text.clone()),
            ("escaped as JSON", json[1..json.len() - 1].into()),
            ("escaped by Debug", debug[1..debug.len() - 1].into()),
            ("URL-encoded", percent(bytes, "%20", |byte| format!("%{byte:02X}"))),
            ("URL-encoded", percent(bytes, "%20", |byte| format!("%{byte:02x}"))),
            ("form-encoded", percent(bytes, "+", |byte| format!("%{byte:02X}"))),
            ("as hex", bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
            ("as hex", bytes.iter().map(|byte| format!("{byte:02X}")).collect()),
            ("as a list of bytes", bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")),
        ];
        // A key, or a line of one in PEM: what it encodes is as secret as its text.
        if let Ok(key) = BASE64_STANDARD.decode(bytes)
            && key.len() >= 16
        {
            forms.push(("as hex", key.iter().map(|byte| format!("{byte:02x}")).collect()));
            forms.push(("as hex", key.iter().map(|byte| format!("{byte:02X}")).collect()));
            forms.push(("as a list of bytes", key.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")));
        }
        for shift in 0..3 {
            forms.push(("in base64", inner_base64(&BASE64_STANDARD, bytes, shift)));
            forms.push(("in base64", inner_base64(&BASE64_URL_SAFE, bytes, shift)));
        }
        forms
    }
}

/// The characters that `bytes` alone decide when they are encoded `shift` bytes into something longer.
fn inner_base64(engine: &impl Engine, bytes: &[u8], shift: usize) -> String {
    let encoded = engine.encode([&vec![0; shift], bytes].concat());
    let first = (shift * 8).div_ceil(6);
    let end = (shift + bytes.len()) * 8 / 6;
    encoded[first..end].into()
}

fn percent(bytes: &[u8], space: &str, escape: impl Fn(u8) -> String) -> String {
    let encode = |&byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).into(),
        b' ' => space.to_owned(),
        _ => escape(byte),
    };
    bytes.iter().map(encode).collect()
}

/// Each sentinel, which no escaping alters, and then the fields of an object or else the value as a whole.
fn secrets_in(value: &str) -> Vec<String> {
    let mut secrets: Vec<String> = value
        .match_indices(SENTINEL)
        .map(|(at, _)| {
            let random = value[at + SENTINEL.len()..].chars().take_while(char::is_ascii_alphanumeric);
            SENTINEL.chars().chain(random).collect()
        })
        .filter(|sentinel: &String| sentinel.len() >= SENTINEL.len() + 8)
        .collect();
    match serde_json::from_str(value) {
        Ok(serde_json::Value::Object(fields)) => {
            let secret = fields.iter().filter(|(name, _)| !PUBLIC.contains(&name.as_str()));
            for text in secret.filter_map(|(_, field)| field.as_str()) {
                secrets.push(text.into());
                secrets.extend(key_lines(text));
            }
        }
        // Certificates alone are for everybody to see.
        _ if value.contains("-----BEGIN CERTIFICATE-----") && !value.contains("PRIVATE KEY") => (),
        _ => {
            secrets.push(value.into());
            secrets.extend(key_lines(value));
        }
    }
    secrets
}

/// Each line of a private key is a leak by itself; its first and last are the same in every key.
fn key_lines(text: &str) -> impl Iterator<Item = String> {
    let mut key = false;
    text.lines().filter_map(move |line| match line.strip_prefix("-----BEGIN ") {
        Some(what) => {
            key = what.contains("PRIVATE KEY");
            None
        }
        None => (key && line.len() > 32 && !line.starts_with("--")).then(|| line.into()),
    })
}

/// 32 hex digits, 128 random bits.
pub fn random() -> String {
    random_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A password that is recognizable, and that no careless quoting survives.
pub fn random_password() -> String {
    format!("{SENTINEL}{}'\"@:/?#%\\ &=+$", random())
}

/// A signing key: 32 random bytes in base64.
pub fn random_key() -> String {
    BASE64_STANDARD.encode(random_bytes())
}

fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.expect("Linux and macOS have /dev/urandom");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_found_in_every_encoding_and_named_without_its_value() {
        let planted = Planted::default();
        let password = random_password();
        planted.remember("database", &serde_json::json!({ "username": "somebody", "password": password }).to_string());
        let hex: String = password.bytes().map(|byte| format!("{byte:02x}")).collect();
        for leak in [
            password.clone(),
            format!("{password:?}"),
            format!("{:?}", password.as_bytes()),
            serde_json::json!({ "error": format!("{password:?}") }).to_string(),
            hex,
            BASE64_STANDARD.encode(format!("user:{password}")),
            BASE64_URL_SAFE.encode(format!("{password}\n")),
            percent(password.as_bytes(), "+", |byte| format!("%{byte:02X}")),
        ] {
            let found = std::panic::catch_unwind(|| planted.assert_absent("a log", &format!("before {leak} after")));
            let message = *found.expect_err("it leaks").downcast::<String>().expect("assert formats a String");
            assert!(message.starts_with("a log holds the secret of `database`"), "{message}");
            assert!(!planted.values().iter().any(|value| value.leak(&message).is_some()), "the message leaks");
            assert!(!planted.redact(&leak).contains(&password), "redacted");
        }
        planted.assert_absent("a log", "somebody logged in with sentinel-");
    }

    #[test]
    fn a_signing_key_is_looked_for_as_its_base64() {
        let planted = Planted::default();
        let key = random_key();
        planted.remember("signing", &key);
        assert_eq!(planted.all(), [key]);
    }

    #[test]
    fn a_line_of_a_private_key_is_a_leak_in_pem_and_decoded_and_a_certificate_is_none() {
        let identity = crate::Authority::new("test").local(crate::Validity::days(1));
        for planted_as in [identity.secret(), identity.certificate.clone() + &identity.private_key] {
            let planted = Planted::default();
            planted.remember("server_tls", &planted_as);
            let lines: Vec<_> = identity.private_key.lines().collect();
            let der = BASE64_STANDARD.decode(lines[1..lines.len() - 1].concat()).expect("it is PEM");
            for leak in [
                identity.private_key.clone(),
                lines[2].into(),
                serde_json::json!({ "error": identity.secret() }).to_string(),
                BASE64_STANDARD.encode(&der),
                format!("{der:?}"),
                der.iter().map(|byte| format!("{byte:02x}")).collect(),
            ] {
                assert!(planted.values().iter().any(|value| value.leak(&leak).is_some()), "{leak}");
            }
            for public in [lines[0], lines[lines.len() - 1], &identity.certificate] {
                planted.assert_absent("a log", public);
            }
        }
        let planted = Planted::default();
        planted.remember("client_ca", &identity.certificate);
        assert_eq!(planted.all(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_secret_and_what_is_blank_are_not_looked_for() {
        let planted = Planted::default();
        for value in ["", "   \n         ", "{}", r#"{"username": "somebody-long", "password": " "}"#] {
            planted.remember("database", value);
        }
        assert_eq!(planted.all(), Vec::<String>::new());
    }

    #[test]
    fn the_sentinel_in_a_malformed_secret_is_looked_for_by_itself() {
        let planted = Planted::default();
        planted.remember("database", r#"{"password": "sentinel-0123456789", oops"#);
        assert!(planted.all().contains(&"sentinel-0123456789".to_owned()));
    }
}
