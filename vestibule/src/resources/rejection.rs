//! A version of a credential that the other side rejects.

use crate::{
    exit::{Exit, Fault},
    secrets::{
        credential::{Credential, Name},
        id::VersionId,
    },
};

/// The other side's rejection of one version of a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}, version {version}, is rejected: {reason}")]
pub struct Rejection {
    /// The credential's name.
    pub credential: Name,
    /// The credential as a report names it: name and id.
    pub subject: String,
    /// The version that is rejected.
    pub version: VersionId,
    /// The reason that the other side gave.
    pub reason: String,
}

impl Rejection {
    /// Makes the rejection of the version that is in use. People read `reason`, so it must not quote the credential.
    ///
    /// ```
    /// use vestibule::{BuildError, Credential, credentials::ApiKey, resources::Rejection};
    ///
    /// fn check(key: &Credential<ApiKey>, status: u16) -> Result<(), BuildError> {
    ///     match status {
    ///         401 => Err(Rejection::of(key, "the answer was 401").into()),
    ///         _ => Ok(()),
    ///     }
    /// }
    /// ```
    pub fn of<K>(credential: &Credential<K>, reason: impl Into<String>) -> Self {
        Self {
            credential: credential.name(),
            subject: credential.subject(),
            version: credential.version().clone(),
            reason: reason.into(),
        }
    }

    /// Returns the fault of a load that met the rejection. Its exit code is 77.
    pub(crate) fn into_fault(self) -> Fault {
        let Self { subject, version, reason, .. } = self;
        Fault::new(
            Exit::Denied,
            subject,
            format!("the other side rejects it, in version {version}: {reason}"),
            "put the version that the other side accepts at the manager, or make the other side accept the version \
             at the manager: for a database, set that password",
        )
    }
}
