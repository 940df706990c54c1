//! The new value of a credential.

use std::time::Duration;

use crate::dev::error::DevError;
use crate::stack::authority::Authority;
use crate::stack::authority::identity::Identity;
use crate::stack::authority::validity::{DAY, Validity};
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::random::{random, random_key};

/// The time until a new certificate expires, unless the user chooses another.
const EXPIRES: Duration = Duration::from_secs(90 * DAY.as_secs());

/// The new value of a credential.
pub(super) enum Replacement {
    /// A login, whose rotation makes the new password.
    Login,
    /// A text.
    Text(String),
    /// A certificate, and its validity.
    Certificate(Identity, Validity),
}

impl Replacement {
    /// Makes a random value of the credential's kind. A certificate ends after `expires`.
    pub(super) fn random(
        credential: &DeclaredCredential,
        authority: &Authority,
        expires: Option<Duration>,
    ) -> Result<Self, DevError> {
        match credential.kind.as_str() {
            "login" => Ok(Self::Login),
            "signing_keys" => Ok(Self::Text(random_key())),
            "api_key" => Ok(Self::Text(random())),
            "client_ca" => Ok(Self::Text(authority.certificate().into())),
            "tls_identity" => {
                let validity = Validity::ending_in(expires.unwrap_or(EXPIRES));
                Ok(Self::Certificate(authority.local(validity), validity))
            }
            other => Err(DevError::new(format!("cargo dev cannot invent a `{other}`"))),
        }
    }
}
