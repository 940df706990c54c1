//! A credential that a service asks for.

use super::{credential::Name, version::Stage};
use serde::Serialize;

/// A credential that a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CredentialSpec {
    /// The field in the service's `Secrets`.
    pub name: Name,
    /// [`Kind::NAME`].
    pub kind: &'static str,
    /// [`Kind::STAGES`].
    pub stages: &'static [Stage],
    /// Off unless its id is configured.
    pub optional: bool,
}
