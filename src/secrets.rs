//! The credentials that this service holds: one field each.

use vestibule::{
    Credential, SecretSet,
    credentials::{ApiKey, Login, SigningKeys},
};

/// Fetched at the start, all of them or none, and again at each rotation.
#[derive(SecretSet)]
pub struct Secrets {
    /// Login of the role that reads and writes notes.
    pub database: Credential<Login>,
    /// Signs the cursors of lists.
    pub signing: Credential<SigningKeys>,
    /// Key of the webhook that hears of new notes. On when its id is configured.
    pub webhook: Option<Credential<ApiKey>>,
}
