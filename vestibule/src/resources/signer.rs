//! Signers: they sign data that a client carries for us and must not change.

pub use crate::credentials::signing_keys::BadSignature;
use crate::{
    credentials::signing_keys::{RotationTime, SigningKeys},
    last_uses::LastUses,
    reload_requests::ReloadRequests,
    secrets::{credential::Name, id::VersionId},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};
use time::OffsetDateTime;

/// The largest difference between the clocks of two replicas, in seconds.
const MAX_CLOCK_SKEW: u64 = 60;

/// A signer for one purpose. It makes tokens, which carry a payload and expire, and detached signatures. Both are
/// authentic, but not confidential: HMAC-SHA-256 with the current key.
///
/// The current key and the pending key verify. The previous key verifies, while the manager has it, until everything that
/// it signed has expired. That is `secrets.max_stale` plus the signer's lifetime after the key was replaced, as far as
/// this process can know: a replica may go on with the previous key for `secrets.max_stale`.
///
/// ```
/// use vestibule::{Signer, resources::signer::BadSignature};
///
/// /// A service with `cx.signer(&cx.secrets.keys, "session", Duration::from_secs(3600))`.
/// struct Sessions {
///     signer: Signer,
/// }
///
/// impl Sessions {
///     fn cookie(&self, user: &str) -> String {
///         self.signer.seal(user.as_bytes())
///     }
///
///     fn user(&self, cookie: &str) -> Result<String, BadSignature> {
///         let user = self.signer.open(cookie)?;
///         Ok(String::from_utf8(user).expect("a cookie holds a user's name"))
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Signer {
    keys: Arc<SigningKeys>,
    credential: Name,
    purpose: &'static str,
    token_kind: SignatureKind,
    /// The lifetime of a token, in seconds.
    lifetime: u64,
    /// The time for which the previous key verifies after it was replaced.
    previous_verifies_for: Duration,
    reload_requests: Arc<ReloadRequests>,
    last_uses: Arc<LastUses>,
}

/// The kind of a signature. A signature of one kind is void as the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SignatureKind {
    /// Part of a token.
    Token,
    /// Part of a debug token.
    DebugToken,
    /// Part of a reload token.
    ReloadToken,
    /// Beside its message.
    Detached,
}

/// A token that was opened.
pub(crate) struct OpenedToken {
    /// In seconds since 1970.
    pub(crate) expires_at: u64,
    pub(crate) payload: Vec<u8>,
    /// The key that sealed it.
    pub(crate) key_id: VersionId,
}

/// A token that cannot be opened.
pub(crate) enum OpenError {
    /// It has expired, or expires too late. Nobody has verified it.
    OutOfTime,
    BadSignature,
}

impl From<BadSignature> for OpenError {
    fn from(_: BadSignature) -> Self {
        Self::BadSignature
    }
}

impl Signer {
    pub(crate) fn new(
        credential: Name,
        keys: Arc<SigningKeys>,
        purpose: &'static str,
        lifetime: Duration,
        max_stale: Duration,
        reload_requests: Arc<ReloadRequests>,
        last_uses: Arc<LastUses>,
    ) -> Self {
        assert!(!purpose.contains('\0'), "the purpose of a signer has a zero byte");
        let previous_verifies_for = max_stale.saturating_add(lifetime);
        let (lifetime, token_kind) = (whole_seconds(lifetime), SignatureKind::Token);
        Self { keys, credential, purpose, token_kind, lifetime, previous_verifies_for, reload_requests, last_uses }
    }

    /// Returns a signer of debug tokens. What it seals is void for every other signer, whatever their purposes.
    pub(crate) fn for_debug_tokens(self) -> Self {
        Self { token_kind: SignatureKind::DebugToken, ..self }
    }

    /// Returns a signer of reload tokens. What it seals is void for every other signer, whatever their purposes.
    pub(crate) fn for_reload_tokens(self) -> Self {
        Self { token_kind: SignatureKind::ReloadToken, ..self }
    }

    /// Returns a token as [`seal`](Self::seal) does, with a lifetime of its own. It must not be longer than the signer's.
    pub(crate) fn seal_for(&self, lifetime: Duration, payload: &[u8]) -> String {
        self.seal_until(now().saturating_add(whole_seconds(lifetime)), payload)
    }

    /// Returns a token that carries `payload` and expires after the signer's lifetime. It is safe in a URL:
    /// `<key id>.<expiry and payload>.<signature>`.
    pub fn seal(&self, payload: &[u8]) -> String {
        self.seal_at(payload, now())
    }

    /// Verifies a token, and returns its payload.
    ///
    /// The token must have been sealed for this purpose, by a key that verifies, and must not have expired. A token that
    /// expires later than one sealed now (plus 60 s, because clocks differ) is refused, too.
    ///
    /// If the key is not held, another replica may hold it already. This call then requests a reload, once in 30 s.
    ///
    /// # Errors
    /// [`BadSignature`], whatever is wrong with the token.
    pub fn open(&self, token: &str) -> Result<Vec<u8>, BadSignature> {
        self.open_at(token, now())
    }

    /// Returns a signature that stands beside its message, in a header for example.
    ///
    /// The signature is valid as long as its key. If a message must expire earlier, put its expiry into the message.
    ///
    /// Anybody who shares the key can verify the signature without this crate: it is the HMAC-SHA-256 of the purpose, a
    /// zero byte, `detached`, a zero byte, and the message.
    ///
    /// ```
    /// use vestibule::{Signature, Signer, resources::signer::BadSignature};
    ///
    /// fn sign_header(signer: &Signer, body: &[u8]) -> String {
    ///     signer.sign(body).to_string()
    /// }
    ///
    /// fn verify_header(signer: &Signer, body: &[u8], header: &str) -> Result<(), BadSignature> {
    ///     signer.verify(body, &header.parse::<Signature>()?)
    /// }
    /// ```
    pub fn sign(&self, message: &[u8]) -> Signature {
        let (key_id, bytes) = self.keys.sign(&self.signed_bytes(SignatureKind::Detached, message));
        Signature { key_id: key_id.clone(), bytes }
    }

    /// Verifies, in constant time, a signature of this message. It must have been made for this purpose, by a key that
    /// verifies. If the key is not held, this call requests a reload, as [`open`](Self::open) does.
    ///
    /// # Errors
    /// [`BadSignature`], whatever is wrong with the signature.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        self.verify_at(message, signature, now())
    }

    fn seal_at(&self, payload: &[u8], now: u64) -> String {
        self.seal_until(now.saturating_add(self.lifetime), payload)
    }

    /// Returns a token as [`seal`](Self::seal) does, which expires then, in seconds since 1970.
    pub(crate) fn seal_until(&self, expires_at: u64, payload: &[u8]) -> String {
        let content = [&expires_at.to_be_bytes(), payload].concat();
        let (key_id, signature) = self.keys.sign(&self.signed_bytes(self.token_kind, &content));
        token(key_id.as_str(), &content, &signature)
    }

    /// Returns a token as [`seal`](Self::seal) does, by the key of this id, whatever its stage. `None` if it is not held.
    pub(crate) fn seal_by(&self, key_id: &str, payload: &[u8]) -> Option<String> {
        self.seal_by_at(key_id, payload, now())
    }

    pub(crate) fn seal_by_at(&self, key_id: &str, payload: &[u8], now: u64) -> Option<String> {
        let content = [&now.saturating_add(self.lifetime).to_be_bytes(), payload].concat();
        let signature = self.keys.sign_by(key_id, &self.signed_bytes(self.token_kind, &content))?;
        Some(token(key_id, &content, &signature))
    }

    fn open_at(&self, token: &str, now: u64) -> Result<Vec<u8>, BadSignature> {
        match self.open_whole_at(token, now) {
            Ok(opened) => Ok(opened.payload),
            Err(OpenError::OutOfTime | OpenError::BadSignature) => Err(BadSignature),
        }
    }

    /// Verifies a token as [`open`](Self::open) does, and returns all of it.
    ///
    /// # Errors
    /// [`OpenError`]
    pub(crate) fn open_whole(&self, token: &str) -> Result<OpenedToken, OpenError> {
        self.open_whole_at(token, now())
    }

    fn open_whole_at(&self, token: &str, now: u64) -> Result<OpenedToken, OpenError> {
        let (rest, signature) = split(token)?;
        let (key_id, content) = split(rest)?;
        let (expires_at, payload) = content.split_first_chunk().ok_or(BadSignature)?;
        let expires_at = u64::from_be_bytes(*expires_at);
        // Before the key is looked up: an expired token must not request a reload.
        if expires_at < now || expires_at > now.saturating_add(self.lifetime).saturating_add(MAX_CLOCK_SKEW) {
            return Err(OpenError::OutOfTime);
        }
        let key_id = self.check(self.token_kind, key_id, &content, &signature, now)?.clone();
        Ok(OpenedToken { expires_at, payload: payload.to_vec(), key_id })
    }

    fn verify_at(&self, message: &[u8], signature: &Signature, now: u64) -> Result<(), BadSignature> {
        self.check(SignatureKind::Detached, signature.key_id.as_str(), message, &signature.bytes, now).map(drop)
    }

    fn check(
        &self,
        kind: SignatureKind,
        key_id: &str,
        content: &[u8],
        signature: &[u8],
        now: u64,
    ) -> Result<&VersionId, BadSignature> {
        let previous_verifies = self.previous_verifies(now);
        if self.keys.may_exist_elsewhere(key_id, previous_verifies) {
            self.reload_requests.request_for_unknown_key();
        }
        let key = self.keys.verify(key_id, &self.signed_bytes(kind, content), signature, previous_verifies)?;
        // A token of the framework is no use that revoking the key would hurt.
        let is_of_service = matches!(kind, SignatureKind::Token | SignatureKind::Detached);
        if is_of_service && key != self.keys.current_id() {
            self.last_uses.record(self.credential, key);
        }
        Ok(key)
    }

    /// Returns `true` if the previous key still verifies. A date of the manager is compared with the wall clock, because
    /// nothing else has the manager's time.
    fn previous_verifies(&self, now: u64) -> bool {
        match self.keys.rotated {
            RotationTime::Seen(moment) => moment.elapsed() <= self.previous_verifies_for,
            RotationTime::Dated(at) => {
                now <= seconds_since_epoch(at).saturating_add(whole_seconds(self.previous_verifies_for))
            }
        }
    }

    /// Returns the bytes to sign. Neither the purpose nor the kind contains a zero byte, so no two inputs give the same
    /// bytes.
    fn signed_bytes(&self, kind: SignatureKind, content: &[u8]) -> Vec<u8> {
        let kind: &[u8] = match kind {
            SignatureKind::Token => b"token",
            SignatureKind::DebugToken => b"debug token",
            SignatureKind::ReloadToken => b"reload token",
            SignatureKind::Detached => b"detached",
        };
        [self.purpose.as_bytes(), &[0], kind, &[0], content].concat()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

/// A detached signature: [`Signer::sign`] returns one. Its text is `<key id>.<signature>`, which is safe in a URL and in a
/// header.
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

/// Returns the text of a token.
fn token(key_id: &str, content: &[u8], signature: &[u8]) -> String {
    format!("{key_id}.{}.{}", URL_SAFE_NO_PAD.encode(content), URL_SAFE_NO_PAD.encode(signature))
}

/// Splits a text at the last dot, and decodes what follows. A key id may contain dots, but base64 does not.
fn split(text: &str) -> Result<(&str, Vec<u8>), BadSignature> {
    let (before, encoded) = text.rsplit_once('.').ok_or(BadSignature)?;
    Ok((before, URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadSignature)?))
}

fn now() -> u64 {
    seconds_since_epoch(OffsetDateTime::now_utc())
}

fn seconds_since_epoch(at: OffsetDateTime) -> u64 {
    u64::try_from(at.unix_timestamp()).unwrap_or(0)
}

/// Returns the seconds of a duration, rounded up.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add((duration.subsec_nanos() > 0).into())
}

#[cfg(test)]
mod tests;
