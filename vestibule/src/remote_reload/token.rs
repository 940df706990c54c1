//! Reload tokens: each asks one process for one reload.
//!
//! A token is sealed by a signing key of the service. It has the method and the path of the request, the process that it is
//! for (`instance` in `/status`), the time at which it expires, and a nonce. It has no secret.

use crate::{
    credentials::signing_keys::SigningKeys,
    last_uses::LastUses,
    resources::signer::{OpenError, OpenedToken, Signer},
    secrets::{credential::Name, id::VersionId},
};
use axum::http::{HeaderMap, header};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use uuid::Uuid;

/// The lifetime of a token. The clocks of both machines may differ by 60 s.
const LIFETIME: Duration = Duration::from_secs(60);

/// The largest token, in bytes. A longer one is refused before anything is computed.
const MAX_TOKEN: usize = 512;

/// The scheme of `Authorization`.
pub(crate) const SCHEME: &str = "Vestibule-Reload";

/// The request that a token is for. A token for another one is void here.
const REQUEST: &[u8] = b"POST /reload ";

/// The number of used tokens that are remembered one by one.
const MAX_USED: usize = 256;

/// A request that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// `admin.reload` is off.
    Off,
    /// The request has no token.
    Unsigned,
    /// Its token has expired, or expires too late.
    OutOfTime,
    /// No key of this process has sealed its token.
    BadSignature,
    /// Its token is for another process.
    OtherProcess,
    /// Its token was used before.
    Replayed,
    /// Too many operators wait already.
    Busy,
}

/// Returns the signer of the reload tokens of a service.
pub(crate) fn signer(
    service: &'static str,
    name: Name,
    keys: Arc<SigningKeys>,
    max_stale: Duration,
    last_uses: Arc<LastUses>,
) -> Signer {
    // Nobody reads these requests for a reload: a client that invents the id of a key must cause none.
    Signer::new(name, keys, service, LIFETIME, max_stale, Arc::default(), last_uses).for_reload_tokens()
}

/// Returns the value of `Authorization` for a reload of this process, sealed by the key of this id. `None` if the signer has
/// no such key.
pub(crate) fn authorization(signer: &Signer, key_id: &str, instance: Uuid) -> Option<String> {
    let token = signer.seal_by(key_id, &payload(instance, Uuid::new_v4()))?;
    Some(format!("{SCHEME} {token}"))
}

fn payload(instance: Uuid, nonce: Uuid) -> Vec<u8> {
    [REQUEST, instance.as_bytes(), nonce.as_bytes()].concat()
}

/// Verifies the token of a request, and records that it was used. Returns the key that has sealed it.
///
/// # Errors
/// The reason why the request is not allowed.
pub(super) fn verify(
    headers: &HeaderMap,
    signer: Option<Signer>,
    instance: Uuid,
    used: &UsedTokens,
) -> Result<VersionId, Refused> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix(SCHEME));
    let Some(token) = token.and_then(|token| token.strip_prefix(' ')) else { return Err(Refused::Unsigned) };
    if token.len() > MAX_TOKEN {
        return Err(Refused::BadSignature);
    }
    let signer = signer.ok_or(Refused::BadSignature)?;
    let OpenedToken { expires_at, payload, key_id } = signer.open_whole(token).map_err(|error| match error {
        OpenError::OutOfTime => Refused::OutOfTime,
        OpenError::BadSignature => Refused::BadSignature,
    })?;
    let (of_instance, nonce) = read(&payload).ok_or(Refused::BadSignature)?;
    if of_instance != instance {
        return Err(Refused::OtherProcess);
    }
    if !used.is_first_use(expires_at, nonce) {
        return Err(Refused::Replayed);
    }
    Ok(key_id)
}

/// Returns the process and the nonce of a payload.
fn read(payload: &[u8]) -> Option<(Uuid, Uuid)> {
    let (instance, nonce) = payload.strip_prefix(REQUEST)?.split_at_checked(16)?;
    Some((Uuid::from_slice(instance).ok()?, Uuid::from_slice(nonce).ok()?))
}

/// The tokens that this process has accepted. A token is for one process alone, so no other one has to know them, and they
/// may be forgotten with it.
#[derive(Default)]
pub(crate) struct UsedTokens(Mutex<Used>);

#[derive(Default)]
struct Used {
    /// Each with the time at which it expires.
    tokens: BTreeSet<(u64, Uuid)>,
    /// Every token that expires until then counts as used. So no clock decides what may be forgotten.
    forgotten_until: u64,
}

impl UsedTokens {
    /// Returns `true` if this token was not used before. Call it only for a token that was verified.
    fn is_first_use(&self, expires_at: u64, nonce: Uuid) -> bool {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if expires_at <= used.forgotten_until || !used.tokens.insert((expires_at, nonce)) {
            return false;
        }
        if used.tokens.len() > MAX_USED
            && let Some((expires_at, _)) = used.tokens.pop_first()
        {
            used.forgotten_until = expires_at;
        }
        true
    }
}

#[cfg(test)]
mod tests;
