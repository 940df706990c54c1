//! The credentials that this service holds: one field per credential.

use vestibule::{
    Credential, SecretSet,
    credentials::{ApiKey, Login, SigningKeys},
};

/// The credentials. All of them are fetched before the service starts, and again in each reload.
#[derive(SecretSet)]
pub struct Secrets {
    /// The login of the role that reads and writes notes.
    pub database: Credential<Login>,
    /// The keys that sign the cursors of lists.
    pub signing: Credential<SigningKeys>,
    /// The key of the webhook that is told of notes. On only if its id is configured.
    pub webhook: Option<Credential<ApiKey>>,
}
