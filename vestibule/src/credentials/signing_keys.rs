//! Keys that sign what comes back to us: cursors, sessions, webhooks.

use super::{json, looks_like_json, unescaped};
use crate::secrets::{
    id::VersionId,
    kind::{Kind, Malformed},
    version::{SecretValue, SecretValues, Stage},
};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// HMAC-SHA-256 keys: the current one signs; it, the pending and the previous one verify, because replicas do not turn
/// at the same instant. A key's id is the id of its version. A service uses them through a
/// [`Signer`](crate::resources::Signer).
pub struct SigningKeys {
    current: Key,
    pending: Option<Key>,
    previous: Option<Key>,
    rotated_at: OffsetDateTime,
}

struct Key {
    id: VersionId,
    // In a box, which does not move: aws-lc-rs wipes the place where a key is dropped, not those that it moved from, and
    // an `Option` without one has whatever was there.
    key: Box<hmac::Key>,
}

/// The signature does not fit, its key is not held, or its time is over. Which of them is not for a client to know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit, or its time is over")]
pub struct BadSignature;

impl SigningKeys {
    const EXPECTED: &str = "base64 of at least 32 random bytes, bare or as {\"key\": \"…\"}";

    /// RFC 2104: keys shorter than the hash weaken it.
    const MIN_BYTES: usize = 32;

    /// Signs with the current key. Returns its id and the signature.
    pub(crate) fn sign(&self, message: &[u8]) -> (&VersionId, [u8; 32]) {
        let tag = hmac::sign(&self.current.key, message);
        let signature = tag.as_ref().try_into().expect("SHA-256 has 32 bytes");
        (&self.current.id, signature)
    }

    /// Verifies in constant time, with the key of this id; with the previous one only where it still counts.
    pub(crate) fn verify(
        &self,
        key_id: &str,
        message: &[u8],
        signature: &[u8],
        previous_counts: bool,
    ) -> Result<(), BadSignature> {
        let key = self.key(key_id, previous_counts).ok_or(BadSignature)?;
        hmac::verify(key, message, signature).map_err(|_| BadSignature)
    }

    /// Whether no key of this id verifies here, and a manager could have given it: another replica may hold it already.
    pub(crate) fn could_come(&self, key_id: &str, previous_counts: bool) -> bool {
        let well_formed =
            (1..=64).contains(&key_id.len()) && key_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        well_formed && self.key(key_id, previous_counts).is_none()
    }

    /// When the current key took the place of the previous one, as far as anybody here can know: when the younger of
    /// both came to the manager (where it does not say, when they were read), or, if that is later, when this process
    /// saw the one make way for the other. So a version that was made long before its label moved, and one to which the
    /// label went back, cut off nobody who is served by a process that lived through it.
    pub(crate) fn rotated_at(&self) -> OffsetDateTime {
        self.rotated_at
    }

    fn key(&self, id: &str, previous_counts: bool) -> Option<&hmac::Key> {
        // The previous one first: AWS leaves AWSPENDING where it was, so a version may have both labels.
        let previous = self.previous.iter().map(|key| (key, previous_counts));
        let others = std::iter::once(&self.current).chain(&self.pending).map(|key| (key, true));
        let (key, counts) = previous.chain(others).find(|(key, _)| key.id.as_str() == id)?;
        counts.then_some(&key.key)
    }
}

impl Kind for SigningKeys {
    const NAME: &'static str = "signing_keys";
    const STAGES: &'static [Stage] = &[Stage::Current, Stage::Pending, Stage::Previous];

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let current = values.current();
        let other = |stage| values.at(stage).filter(|value| value.version != current.version);
        // A key that only verifies may be missing, so it may be malformed too: a rotation that began badly, or a bad
        // version that was replaced, must not hold up the current key.
        let key_at = |stage| other(stage).and_then(|value| key(value).ok());
        let came = current.created.unwrap_or_else(OffsetDateTime::now_utc);
        let before = other(Stage::Previous).and_then(|value| value.created);
        Ok(Self {
            current: key(current)?,
            pending: key_at(Stage::Pending),
            previous: key_at(Stage::Previous),
            rotated_at: [before, values.current_since()].into_iter().flatten().fold(came, OffsetDateTime::max),
        })
    }
}

fn key(value: &SecretValue) -> Result<Key, Malformed> {
    #[derive(Deserialize)]
    struct Json {
        #[serde(deserialize_with = "unescaped")]
        key: SecretString,
    }
    let malformed = || Malformed::expected(SigningKeys::EXPECTED);
    let text = value.text.expose_secret();
    let bare;
    let encoded = if looks_like_json(text) {
        bare = json::<Json>(text, SigningKeys::EXPECTED)?.key;
        bare.expose_secret().trim()
    } else {
        text.trim()
    };
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(encoded.len())]);
    let length = STANDARD.decode_slice(encoded, &mut bytes).map_err(|_| malformed())?;
    if length < SigningKeys::MIN_BYTES {
        return Err(malformed());
    }
    Ok(Key { id: value.version.clone(), key: Box::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes[..length])) })
}
