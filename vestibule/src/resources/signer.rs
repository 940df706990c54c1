//! Signing what a client carries for us and must not change.

pub use crate::credentials::BadSignature;
use crate::{credentials::signing_keys::SigningKeys, reload_requests::ReloadRequests, secrets::id::VersionId};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};
use time::OffsetDateTime;

/// How far the clocks of two replicas may differ, in seconds.
const SKEW: u64 = 60;

/// Signs for one purpose: tokens that carry a payload and an end, and detached signatures. Both are authentic, not
/// confidential: HMAC-SHA-256, with the current key.
///
/// The current key and the pending one verify. The previous one, while the manager has it, verifies until all that it
/// signed is over: from the moment at which it was replaced, as far as this process can know, for
/// `secrets.max_stale` (so long may a replica go on with it) and then for the signer's lifetime.
#[derive(Clone)]
pub struct Signer {
    keys: Arc<SigningKeys>,
    purpose: &'static str,
    /// In seconds.
    lifetime: u64,
    /// In seconds since the epoch.
    previous_until: u64,
    reload_requests: Arc<ReloadRequests>,
}

/// What a signature is of. A token is no signature of its text, nor the other way round.
#[derive(Clone, Copy)]
enum Form {
    Token,
    Detached,
}

impl Signer {
    pub(crate) fn new(
        keys: Arc<SigningKeys>,
        purpose: &'static str,
        lifetime: Duration,
        max_stale: Duration,
        reload_requests: Arc<ReloadRequests>,
    ) -> Self {
        assert!(!purpose.contains('\0'), "the purpose of a signer has a zero byte");
        let lifetime = whole_seconds(lifetime);
        let turned = since_epoch(keys.rotated_at());
        let previous_until = turned.saturating_add(whole_seconds(max_stale)).saturating_add(lifetime);
        Self { keys, purpose, lifetime, previous_until, reload_requests }
    }

    /// A token that carries `payload` and ends after the signer's lifetime: `<key id>.<end and payload>.<signature>`,
    /// safe in a URL.
    pub fn seal(&self, payload: &[u8]) -> String {
        self.seal_at(payload, now())
    }

    /// The payload of a token that was sealed for this purpose, with a key that verifies, and that has not ended. One
    /// that would live longer than this signer's lifetime (and a minute, for clocks that differ) is none of its own. A
    /// key that is not held yet sets off a reload, once in 30 s: replicas do not turn at the same instant.
    ///
    /// # Errors
    /// [`BadSignature`], whatever is wrong with it.
    pub fn open(&self, token: &str) -> Result<Vec<u8>, BadSignature> {
        self.open_at(token, now())
    }

    /// A signature that stands beside its message, in a header for example. It ends with its key: a message that must end
    /// earlier says so itself.
    ///
    /// Who shares the key can verify it without this crate: it is HMAC-SHA-256 of the purpose, a zero byte, `detached`,
    /// a zero byte, and the message.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let (key_id, bytes) = self.keys.sign(&self.framed(Form::Detached, message));
        Signature { key_id: key_id.clone(), bytes }
    }

    /// Verifies, in constant time, that `signature` was made of this message for this purpose, with a key that verifies.
    /// A key that is not held yet sets off a reload, as in [`open`](Self::open).
    ///
    /// # Errors
    /// [`BadSignature`], whatever is wrong with it.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        self.verify_at(message, signature, now())
    }

    fn seal_at(&self, payload: &[u8], now: u64) -> String {
        let end = now.saturating_add(self.lifetime);
        let content = [&end.to_be_bytes(), payload].concat();
        let (key_id, signature) = self.keys.sign(&self.framed(Form::Token, &content));
        format!("{key_id}.{}.{}", URL_SAFE_NO_PAD.encode(content), URL_SAFE_NO_PAD.encode(signature))
    }

    fn open_at(&self, token: &str, now: u64) -> Result<Vec<u8>, BadSignature> {
        let (rest, signature) = split(token)?;
        let (key_id, content) = split(rest)?;
        let (end, payload) = content.split_first_chunk().ok_or(BadSignature)?;
        let end = u64::from_be_bytes(*end);
        // Before the key is looked for: what has ended is worth no reload.
        if end < now || end > now.saturating_add(self.lifetime).saturating_add(SKEW) {
            return Err(BadSignature);
        }
        self.check(Form::Token, key_id, &content, &signature, now)?;
        Ok(payload.to_vec())
    }

    fn verify_at(&self, message: &[u8], signature: &Signature, now: u64) -> Result<(), BadSignature> {
        self.check(Form::Detached, signature.key_id.as_str(), message, &signature.bytes, now)
    }

    fn check(&self, form: Form, key_id: &str, content: &[u8], signature: &[u8], now: u64) -> Result<(), BadSignature> {
        let previous_counts = now <= self.previous_until;
        if self.keys.could_come(key_id, previous_counts) {
            self.reload_requests.request_for_unknown_key();
        }
        self.keys.verify(key_id, &self.framed(form, content), signature, previous_counts)
    }

    /// What is signed. Neither the purpose nor the form's name has a zero byte, so no two triples make the same text.
    fn framed(&self, form: Form, content: &[u8]) -> Vec<u8> {
        let form: &[u8] = match form {
            Form::Token => b"token",
            Form::Detached => b"detached",
        };
        [self.purpose.as_bytes(), &[0], form, &[0], content].concat()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

/// A signature that stands beside its message. As text it is `<key id>.<signature>`, safe in a URL and in a header.
#[derive(Clone)]
pub struct Signature {
    key_id: VersionId,
    bytes: [u8; 32],
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.key_id, URL_SAFE_NO_PAD.encode(self.bytes))
    }
}

impl FromStr for Signature {
    type Err = BadSignature;

    fn from_str(text: &str) -> Result<Self, BadSignature> {
        let (key_id, bytes) = split(text)?;
        Ok(Self { key_id: VersionId::new(key_id), bytes: bytes.try_into().map_err(|_| BadSignature)? })
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signature").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What stands before the last dot, and the bytes behind it. From the right: a key id may have dots, base64 has none.
fn split(text: &str) -> Result<(&str, Vec<u8>), BadSignature> {
    let (before, encoded) = text.rsplit_once('.').ok_or(BadSignature)?;
    Ok((before, URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadSignature)?))
}

fn now() -> u64 {
    since_epoch(OffsetDateTime::now_utc())
}

fn since_epoch(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp()).unwrap_or(0)
}

/// Rounded up.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add((duration.subsec_nanos() > 0).into())
}

#[cfg(test)]
mod tests;
