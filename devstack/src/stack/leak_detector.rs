//! A search for secret values in logs and other output.

mod encodings;
mod secret_parts;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::stack::leak_detector::encodings::encodings;
use crate::stack::leak_detector::secret_parts::secret_parts;

/// A collection of secret values that finds them in a text, in any common encoding. Clones share the values.
#[derive(Clone, Default)]
pub struct LeakDetector(Arc<Mutex<Vec<KnownSecret>>>);

/// One secret value.
#[derive(Clone)]
struct KnownSecret {
    credential: String,
    text: String,
}

impl LeakDetector {
    /// Remembers the secret parts of `value`.
    pub fn remember(&self, credential: &str, value: &str) {
        let mut secrets = self.secrets();
        for text in secret_parts(value) {
            // A test can store a blank or tiny value that the service must reject. It would be found everywhere.
            if text.trim().len() >= 8 && !secrets.iter().any(|secret| secret.text == text) {
                secrets.push(KnownSecret { credential: credential.into(), text });
            }
        }
    }

    /// Returns all values.
    pub fn secret_values(&self) -> Vec<String> {
        self.secrets().iter().map(|secret| secret.text.clone()).collect()
    }

    /// Checks that `text` holds none of the values.
    ///
    /// # Panics
    /// If it does. The message names the credential, never the value.
    #[track_caller]
    pub fn assert_secret_free(&self, what: &str, text: &str) {
        let leaks: Vec<_> = self.secrets().iter().filter_map(|secret| secret.leak_in(text)).collect();
        assert!(leaks.is_empty(), "{what} holds the secret of {}", leaks.join(", "));
    }

    /// Returns `text` with the credential's name in place of every value.
    pub fn redact(&self, text: &str) -> String {
        let mut redacted = text.to_owned();
        for secret in self.secrets().iter() {
            for (_, form) in encodings(&secret.text) {
                redacted = redacted.replace(&form, &format!("[{}]", secret.credential));
            }
        }
        redacted
    }

    fn secrets(&self) -> MutexGuard<'_, Vec<KnownSecret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownSecret {
    /// Returns the credential and the encoding if the value is in `text`.
    fn leak_in(&self, text: &str) -> Option<String> {
        let (encoding, _) = encodings(&self.text).into_iter().find(|(_, form)| text.contains(form))?;
        Some(format!("`{}` ({encoding})", self.credential))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};

    use super::*;
    use crate::stack::authority::Authority;
    use crate::stack::authority::validity::Validity;
    use crate::stack::leak_detector::encodings::percent_encoded;
    use crate::stack::random::{random_key, random_password};

    #[test]
    fn a_leak_is_found_in_every_encoding_and_its_message_does_not_hold_the_value() {
        let detector = LeakDetector::default();
        let password = random_password();
        detector.remember("database", &serde_json::json!({ "username": "somebody", "password": password }).to_string());
        let hex: String = password.bytes().map(|byte| format!("{byte:02x}")).collect();
        for leak in [
            password.clone(),
            format!("{password:?}"),
            format!("{:?}", password.as_bytes()),
            serde_json::json!({ "error": format!("{password:?}") }).to_string(),
            hex,
            BASE64_STANDARD.encode(format!("user:{password}")),
            BASE64_URL_SAFE.encode(format!("{password}\n")),
            percent_encoded(password.as_bytes(), "+", |byte| format!("%{byte:02X}")),
        ] {
            let found =
                std::panic::catch_unwind(|| detector.assert_secret_free("a log", &format!("before {leak} after")));
            let message = *found.expect_err("it leaks").downcast::<String>().expect("assert formats a String");
            assert!(message.starts_with("a log holds the secret of `database`"), "{message}");
            assert!(!detector.secrets().iter().any(|secret| secret.leak_in(&message).is_some()), "the message leaks");
            assert!(!detector.redact(&leak).contains(&password), "redacted");
        }
        detector.assert_secret_free("a log", "somebody logged in with sentinel-");
    }

    #[test]
    fn a_signing_key_is_searched_for_as_base64() {
        let detector = LeakDetector::default();
        let key = random_key();
        detector.remember("signing", &key);
        assert_eq!(detector.secret_values(), [key]);
    }

    #[test]
    fn a_line_of_a_private_key_is_a_leak_and_a_certificate_is_not() {
        let identity = Authority::new("test").local(Validity::days(1));
        for secret in [identity.secret(), identity.certificate.clone() + &identity.private_key] {
            let detector = LeakDetector::default();
            detector.remember("server_tls", &secret);
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
                assert!(detector.secrets().iter().any(|secret| secret.leak_in(&leak).is_some()), "{leak}");
            }
            for public in [lines[0], lines[lines.len() - 1], &identity.certificate] {
                detector.assert_secret_free("a log", public);
            }
        }
        let detector = LeakDetector::default();
        detector.remember("client_ca", &identity.certificate);
        assert_eq!(detector.secret_values(), Vec::<String>::new());
    }

    #[test]
    fn public_fields_and_blank_values_are_not_searched_for() {
        let detector = LeakDetector::default();
        for value in ["", "   \n         ", "{}", r#"{"username": "somebody-long", "password": " "}"#] {
            detector.remember("database", value);
        }
        assert_eq!(detector.secret_values(), Vec::<String>::new());
    }

    #[test]
    fn the_sentinel_in_a_malformed_secret_is_searched_for_by_itself() {
        let detector = LeakDetector::default();
        detector.remember("database", r#"{"password": "sentinel-0123456789", oops"#);
        assert!(detector.secret_values().contains(&"sentinel-0123456789".to_owned()));
    }
}
