//! The credentials that this service holds: one field each.

use vestibule::{Credential, SecretSet, credentials::Login};

/// Fetched at the start, all of them or none, and again at each rotation.
#[derive(SecretSet)]
pub struct Secrets {
    /// Login of the role that reads and writes the tables.
    pub database: Credential<Login>,
}
