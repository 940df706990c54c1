//! The credentials that this service holds: one field per credential.

use vestibule::{Credential, SecretSet, credentials::Login};

/// The credentials. All of them are fetched before the service starts, and again in each reload.
#[derive(SecretSet)]
pub struct Secrets {
    /// The login of the role that reads and writes the tables.
    pub database: Credential<Login>,
}
