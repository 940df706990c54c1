//! A version of a credential that the other side rejects.

use crate::secrets::{
    credential::{Credential, Name},
    id::VersionId,
};

/// The other side refuses one version of a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}, version {version}, is refused: {reason}")]
pub struct Rejection {
    /// The credential's name.
    pub credential: Name,
    /// What a report calls it: name and id.
    pub subject: String,
    /// The version that was refused.
    pub version: VersionId,
    /// What the other side said.
    pub reason: String,
}

impl Rejection {
    /// The rejection of this version. `reason` is told to people: it must not quote the credential.
    pub fn of<K>(credential: &Credential<K>, reason: impl Into<String>) -> Self {
        Self {
            credential: credential.name(),
            subject: credential.subject(),
            version: credential.version().clone(),
            reason: reason.into(),
        }
    }
}
