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

pub use self::{access_token::AccessToken, principal::Principal, scope::RequireScope};
pub(crate) use self::{
    authenticator::{Authenticator, AuthenticatorParts, authenticate},
    metrics::AuthMetrics,
};

#[cfg(test)]
mod tests;
