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

impl DeclaredCredential {
    /// Returns true for `migrator` and `migrator_SECTION`, which only `migrate` reads.
    pub(crate) fn is_migrator(&self) -> bool {
        self.name == "migrator" || self.name.starts_with("migrator_")
    }
}
