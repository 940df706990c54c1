//! The keys that sign the tokens and the messages of this service.

use super::{ValueText, json, unescaped};
use crate::{
    moment::Moment,
    secrets::{
        id::VersionId,
        kind::{Kind, Malformed},
        secret_parts::SecretParts,
        shape,
        version::{SecretValue, SecretValues, Stage},
    },
};
use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use time::OffsetDateTime;
use zeroize::{Zeroize, Zeroizing};

/// Keys for HMAC-SHA-256. The manager has a key as base64 of at least 32 random bytes, bare or as `{"key": "…"}`. The base64
/// may be that of URLs, may have no padding, and may have several lines, as openssl writes it.
///
/// The current key signs. The current, the pending and the previous key verify, because replicas do not rotate at the
/// same time. A key's id is the id of its version.
///
/// A service uses them through a [`Signer`](crate::resources::Signer), which [`Build::signer`](crate::Build::signer)
/// makes.
pub struct SigningKeys {
    current: SigningKey,
    pending: Option<SigningKey>,
    previous: Option<SigningKey>,
    pub(crate) rotated: RotationTime,
}

/// The time at which the current key took the place of the previous one, as far as this process can know.
#[derive(Clone, Copy)]
pub(crate) enum RotationTime {
    /// The process was running: it saw the current version replace another one. If the manager has no dates, the process
    /// read both then.
    Seen(Moment),
    /// The process started later. The manager got the younger of both versions then.
    Dated(OffsetDateTime),
}

/// A key, with the id of its version.
struct SigningKey {
    id: VersionId,
    // In a box, so that it does not move. aws-lc-rs wipes the place where a key is dropped, not those from which it
    // moved. Without the box, an `Option` that is `None` could carry the bytes of a key that was in its place before.
    key: Box<hmac::Key>,
}

/// A signature that does not match, has expired, or was made with a key that is not held. A client must not learn which
/// of them it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match, or it has expired")]
pub struct BadSignature;

impl SigningKeys {
    pub(super) const EXPECTED: &str = "base64 of at least 32 random bytes, bare or as {\"key\": \"…\"}";

    /// The smallest key, in bytes. A key shorter than the hash weakens the signature (RFC 2104).
    const MIN_BYTES: usize = 32;

    /// Signs with the current key. Returns its id and the signature.
    pub(crate) fn sign(&self, message: &[u8]) -> (&VersionId, [u8; 32]) {
        let tag = on_wiped_stack(|| hmac::sign(&self.current.key, message));
        let signature = tag.as_ref().try_into().expect("SHA-256 has 32 bytes");
        (&self.current.id, signature)
    }

    /// Signs with the key of this id, whatever its stage. `None` if it is not held.
    pub(crate) fn sign_by(&self, key_id: &str, message: &[u8]) -> Option<[u8; 32]> {
        let key = self.key(key_id, true)?;
        let tag = on_wiped_stack(|| hmac::sign(&key.key, message));
        Some(tag.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Verifies in constant time, with the key of this id. The previous key verifies only if `previous_verifies`.
    pub(crate) fn verify(
        &self,
        key_id: &str,
        message: &[u8],
        signature: &[u8],
        previous_verifies: bool,
    ) -> Result<&VersionId, BadSignature> {
        let key = self.key(key_id, previous_verifies).ok_or(BadSignature)?;
        on_wiped_stack(|| hmac::verify(&key.key, message, signature)).map_err(|_| BadSignature)?;
        Ok(&key.id)
    }

    /// Returns the id of the key that signs.
    pub(crate) fn current_id(&self) -> &VersionId {
        &self.current.id
    }

    /// Returns `true` if no key of this id verifies here but the id is well formed. Another replica may hold the key
    /// already.
    pub(crate) fn may_exist_elsewhere(&self, key_id: &str, previous_verifies: bool) -> bool {
        let is_of_id = |byte: u8| byte.is_ascii_alphanumeric() || b"-@.:".contains(&byte);
        let well_formed = (1..=64).contains(&key_id.len()) && key_id.bytes().all(is_of_id);
        well_formed && self.key(key_id, previous_verifies).is_none()
    }

    fn key(&self, id: &str, previous_verifies: bool) -> Option<&SigningKey> {
        // Looks at the previous key first. A manager may leave the label of the pending version in place after a rotation,
        // so the previous version may also be the pending one.
        if let Some(previous) = &self.previous
            && previous.id.as_str() == id
        {
            return if previous_verifies { Some(previous) } else { None };
        }
        let mut others = std::iter::once(&self.current).chain(&self.pending);
        others.find(|other| other.id.as_str() == id)
    }
}

impl Kind for SigningKeys {
    const NAME: &'static str = "signing_keys";
    const STAGES: &'static [Stage] = &[Stage::Current, Stage::Pending, Stage::Previous];

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let current = values.current();
        let previous_created = other_version(values, Stage::Previous).and_then(|value| value.created);
        // A label may move back to an old version, so the other one may be younger.
        let rotated = match (values.seen_current(), current.created.max(previous_created)) {
            (Some(seen), _) => RotationTime::Seen(seen),
            (None, Some(created)) if current.created.is_some() => RotationTime::Dated(created),
            (None, _) => RotationTime::Seen(Moment::now()),
        };
        Ok(Self {
            current: key(current)?,
            pending: verifying_key(values, Stage::Pending),
            previous: verifying_key(values, Stage::Previous),
            rotated,
        })
    }

    fn uses(&self, stage: Stage) -> bool {
        match stage {
            Stage::Current => true,
            Stage::Pending => self.pending.is_some(),
            Stage::Previous => self.previous.is_some(),
        }
    }

    /// Adds each key: its bytes, and the lines of its base64.
    fn secret_parts(&self, values: &SecretValues, parts: &mut SecretParts) {
        for key in values.all().filter_map(|value| key_bytes(value).ok()) {
            parts.add(&*key);
            parts.add_pem(&key, |_| true);
        }
    }
}

/// Returns the version at a stage, if it is another one than the current version.
fn other_version(values: &SecretValues, stage: Stage) -> Option<&SecretValue> {
    match values.at(stage) {
        Some(value) if value.version != values.current().version => Some(value),
        _ => None,
    }
}

/// Returns the key at a stage that only verifies. Such a key may be missing, so a malformed one is treated as missing: a
/// rotation that began badly, or a bad version that was replaced, must not stop the current key.
fn verifying_key(values: &SecretValues, stage: Stage) -> Option<SigningKey> {
    key(other_version(values, stage)?).ok()
}

#[derive(Deserialize)]
struct SigningKeyJson {
    #[serde(deserialize_with = "unescaped")]
    key: SecretString,
}

fn key(value: &SecretValue) -> Result<SigningKey, Malformed> {
    let bytes = key_bytes(value)?;
    let key = on_wiped_stack(|| Box::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes)));
    Ok(SigningKey { id: value.version.clone(), key })
}

/// The part of the stack that HMAC uses, and some more, in words of 8 bytes. Without optimization, its frames are several times
/// as large. `tests/wiped.rs` finds what is left of a key.
const STACK_OF_HMAC: usize = if cfg!(debug_assertions) { 8 * 1024 } else { 1024 };

/// Calls a function that works with a key, and wipes the part of the stack that it used. HMAC leaves the state of the key
/// there, and a future that moves to the heap later takes along what lies between its fields.
fn on_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn call<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    #[inline(never)]
    fn wipe() {
        let mut used = [0_u64; STACK_OF_HMAC];
        used.zeroize();
        std::hint::black_box(&mut used);
    }
    let result = call(work);
    wipe();
    result
}

fn key_bytes(value: &SecretValue) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    let malformed = Malformed::expected(SigningKeys::EXPECTED);
    let text = value.text.expose_secret();
    let from_json;
    let encoded = match ValueText::of(text, SigningKeys::EXPECTED)? {
        ValueText::Json(text) => {
            from_json = json::<SigningKeyJson>(text, SigningKeys::EXPECTED)?.key;
            from_json.expose_secret()
        }
        ValueText::Bare(text) => text,
    };
    // Words with blanks in between are no key, although letters are base64: a sentence, a PEM label, a key of SSH.
    if encoded.lines().any(|line| line.trim().contains(char::is_whitespace)) {
        return Err(malformed);
    }
    let bytes = shape::decode_base64(encoded).ok_or(malformed)?;
    if bytes.len() < SigningKeys::MIN_BYTES { Err(Malformed::expected(SigningKeys::EXPECTED)) } else { Ok(bytes) }
}
