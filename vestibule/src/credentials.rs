//! The kinds of credential. Each accepts a value of its own form from the manager, and gives a typed credential to the
//! service.
//!
//! A further kind is one file, here or in a service: a type with [`Kind`](crate::secrets::Kind). ARCHITECTURE.md shows
//! one. The functions here help all kinds to read a value.

pub(crate) mod all_secrets;
pub(crate) mod api_key;
pub(crate) mod certificate;
pub(crate) mod client_ca;
mod client_verifier;
pub(crate) mod login;
pub(crate) mod pem;
mod private_values;
pub(crate) mod signing_keys;
pub(crate) mod tls_identity;
pub(crate) mod unescaped;
pub(crate) mod value_text;

pub use api_key::ApiKey;
pub use client_ca::ClientCa;
pub use login::{Host, Login, PostgresName};
pub use signing_keys::{BadSignature, SigningKeys};
pub use tls_identity::TlsIdentity;
pub use unescaped::unescaped;
pub use value_text::ValueText;

use crate::secrets::kind::Malformed;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Reads JSON that holds a secret. Its error does not quote the text, as serde's own message would. Read the field of the
/// secret with [`unescaped()`].
///
/// # Errors
/// [`Malformed`] with `expected`, if the text is not JSON of this type.
#[expect(clippy::disallowed_methods, reason = "this is our reader: it drops serde's message")]
pub fn json<'a, T: Deserialize<'a>>(text: &'a str, expected: &'static str) -> Result<T, Malformed> {
    serde_json::from_str(text).map_err(|_| Malformed::expected(expected))
}

/// Returns the secret if it is not empty or blank.
///
/// # Errors
/// [`Malformed`] with `expected`, if it is.
pub fn not_blank(text: SecretString, expected: &'static str) -> Result<SecretString, Malformed> {
    if text.expose_secret().trim().is_empty() {
        return Err(Malformed::expected(expected));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
