//! The description of a credential that a service asks for.

use super::{credential::Name, version::Stage};
use serde::Serialize;

/// The description of a credential that a service asks for. The derive of [`SecretSet`](super::SecretSet) makes one per
/// field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CredentialSpec {
    /// The field in the service's `Secrets`.
    pub name: Name,
    /// The name of its kind: [`Kind::NAME`](super::Kind::NAME).
    pub kind: &'static str,
    /// The stages that are fetched: [`Kind::STAGES`](super::Kind::STAGES).
    pub stages: &'static [Stage],
    /// `true` if the credential is off unless its id is configured.
    pub optional: bool,
}
