//! A credential that a service declares in `config --json`.

use serde::{Deserialize, Serialize};

/// A credential that a service declares in `config --json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeclaredCredential {
    /// The name of its field.
    pub name: String,
    /// The id of its secret.
    pub id: String,
    /// Its kind: `login`, `api_key` …
    pub kind: String,
}
