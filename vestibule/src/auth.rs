//! Authentication: the bearer tokens (RFC 6750) of one issuer. It is on if `auth.issuer` is set.
//!
//! ```text
//! the issuer's keys (JWKS) ─► issuer keys ─► authenticator ─► layer around `Application::routes` ─► AccessToken
//! ```
//!
//! No token is kept: only its claims are, under its SHA-256.

mod access_token;
mod authenticator;
mod bearer;
mod issuer_keys;
mod key_set;
mod key_source;
mod metrics;
mod principal;
mod scope;
mod token;
mod verified_tokens;

use self::{
    key_set::KeySet,
    token::{TokenFault, TokenRules},
};
use crate::config::AuthConfig;

pub use self::{access_token::AccessToken, principal::Principal, scope::RequireScope};
pub(crate) use self::{
    authenticator::{Authenticator, AuthenticatorParts, authenticate},
    key_source::keys_url,
    metrics::AuthMetrics,
};

#[cfg(test)]
mod tests;

/// Reads a JWKS document, and verifies a token with its keys: the way in for a fuzz target. Returns the ids of the keys,
/// and the claims of the token or the reason for which it is refused.
pub(crate) fn verify(config: &AuthConfig, document: &[u8], token: &str) -> Verified {
    let keys = KeySet::parse(document)?;
    let ids = keys.ids().map(str::to_owned).collect();
    let verified = match TokenRules::of(config).verify(token, &keys) {
        Ok(claims) => Ok(claims.subject),
        Err(TokenFault::UnknownKey) => Err("no key of the set is the token's"),
        Err(TokenFault::WrongKeys(reason) | TokenFault::Invalid(reason)) => Err(reason),
    };
    Ok((ids, verified))
}

/// The ids of the keys, and the subject of the token.
pub(crate) type Verified = Result<(Vec<String>, Result<String, &'static str>), &'static str>;
