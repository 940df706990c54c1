//! Keys that sign what comes back to us: cursors, sessions, webhooks.

use super::{json, looks_like_json};
use crate::secrets::{Kind, Malformed, Stage, Value, Values, VersionId};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;

/// HMAC-SHA-256 keys: the current one signs; it, the pending and the previous one verify, because replicas do not turn
/// at the same instant. A key's id is the id of its version.
pub struct SigningKeys {
    current: Key,
    others: Vec<Key>,
}

struct Key {
    id: VersionId,
    key: hmac::Key,
}

/// The signature does not fit, or its key is not held.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct BadSignature;

impl SigningKeys {
    const EXPECTED: &str = "base64 of at least 32 random bytes, bare or as {\"key\": \"…\"}";

    /// RFC 2104: keys shorter than the hash weaken it.
    const MIN_BYTES: usize = 32;

    /// Signs with the current key. Returns its id and the signature, 32 bytes.
    pub fn sign(&self, message: &[u8]) -> (&VersionId, [u8; 32]) {
        let tag = hmac::sign(&self.current.key, message);
        let signature = tag.as_ref().try_into().expect("SHA-256 has 32 bytes");
        (&self.current.id, signature)
    }

    /// Verifies in constant time, with the key of this id.
    pub fn verify(&self, key_id: &str, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        self.key(key_id).and_then(|key| hmac::verify(&key.key, message, signature).ok()).ok_or(BadSignature)
    }

    /// Whether a key is unknown that a manager could have given this id: another replica may hold it already.
    pub(crate) fn could_come(&self, key_id: &str) -> bool {
        let well_formed =
            (1..=64).contains(&key_id.len()) && key_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        well_formed && self.key(key_id).is_none()
    }

    fn key(&self, id: &str) -> Option<&Key> {
        std::iter::once(&self.current).chain(&self.others).find(|key| key.id.as_str() == id)
    }
}

impl Kind for SigningKeys {
    const NAME: &'static str = "signing_keys";
    const STAGES: &'static [Stage] = &[Stage::Current, Stage::Pending, Stage::Previous];

    fn read(values: &Values) -> Result<Self, Malformed> {
        // A key that only verifies may be missing, so it may be malformed too: a rotation that began badly, or a bad
        // version that was replaced, must not hold up the current key.
        let others = [Stage::Pending, Stage::Previous]
            .into_iter()
            .filter_map(|stage| values.at(stage))
            .filter(|value| value.version != values.current().version)
            .filter_map(|value| key(value).ok())
            .collect();
        Ok(Self { current: key(values.current())?, others })
    }
}

fn key(value: &Value) -> Result<Key, Malformed> {
    #[derive(Deserialize)]
    struct Json {
        key: SecretString,
    }
    let text = value.text.expose_secret();
    let bare;
    let encoded = if looks_like_json(text) {
        bare = json::<Json>(text, SigningKeys::EXPECTED)?.key;
        bare.expose_secret()
    } else {
        text
    };
    let bytes: SecretSlice<u8> =
        STANDARD.decode(encoded.trim()).map_err(|_| Malformed::expected(SigningKeys::EXPECTED))?.into();
    if bytes.expose_secret().len() < SigningKeys::MIN_BYTES {
        return Err(Malformed::expected(SigningKeys::EXPECTED));
    }
    Ok(Key { id: value.version.clone(), key: hmac::Key::new(hmac::HMAC_SHA256, bytes.expose_secret()) })
}
