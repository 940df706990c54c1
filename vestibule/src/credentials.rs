//! The kinds of credential: what each accepts from the manager, and what a service gets.
//!
//! A further kind is one file, here or in a service: a type with [`Kind`](crate::secrets::Kind). ARCHITECTURE.md shows
//! one. What the kinds have in common is here for it too.

pub(crate) mod all_secrets;
pub(crate) mod api_key;
pub(crate) mod certificate;
pub(crate) mod client_ca;
pub(crate) mod login;
pub(crate) mod signing_keys;
pub(crate) mod tls_identity;
pub(crate) mod unescaped;

pub use api_key::ApiKey;
pub use client_ca::ClientCa;
pub use login::Login;
pub use signing_keys::{BadSignature, SigningKeys};
pub use tls_identity::TlsIdentity;
pub use unescaped::unescaped;

use crate::secrets::kind::Malformed;
use secrecy::SecretString;
use serde::Deserialize;

/// What starts like JSON is JSON or malformed, never the secret itself.
pub fn looks_like_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// Reads JSON that holds a secret; serde's own message would quote it. Read the secret itself with [`unescaped`].
///
/// # Errors
/// [`Malformed`], with what is expected.
pub fn json<'a, T: Deserialize<'a>>(text: &'a str, expected: &'static str) -> Result<T, Malformed> {
    serde_json::from_str(text).map_err(|_| Malformed::expected(expected))
}

/// A secret that is not empty or blank.
///
/// # Errors
/// [`Malformed`], with what is expected.
pub fn not_blank(text: SecretString, expected: &'static str) -> Result<SecretString, Malformed> {
    use secrecy::ExposeSecret;
    if text.expose_secret().trim().is_empty() {
        return Err(Malformed::expected(expected));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
