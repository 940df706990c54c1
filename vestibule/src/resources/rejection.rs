//! A version of a credential that the other side rejects.

use super::database::remedy_of_rules;
use crate::{
    exit::{Exit, Fault},
    secrets::{
        credential::{Credential, Name},
        id::VersionId,
    },
};

/// The other side's rejection of one version of a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", self.beginning())]
pub struct Rejection {
    /// The credential's name.
    pub credential: Name,
    /// The credential as a report names it: name and id.
    pub subject: String,
    /// The version that is rejected.
    pub version: VersionId,
    /// The reason that the other side gave.
    pub reason: String,
    /// `true` if no secret was rejected, but a token that was signed for one log-in. No other version can be had.
    pub(crate) is_of_token: bool,
}

/// The actions that help if a database rejects a token.
pub(crate) const REMEDY_OF_TOKEN: &str = "grant rds_iam to the user in the database, and allow rds-db:connect on this \
     user and this database to the identity of the process; check that the host is the endpoint as RDS shows it, the \
     Region, and the clock of this machine";

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
            is_of_token: !credential.has_secret(),
        }
    }

    fn beginning(&self) -> String {
        let Self { subject, version, .. } = self;
        if self.is_of_token {
            format!("a token for {subject} is rejected: ")
        } else {
            format!("{subject}, version {version}, is rejected: ")
        }
    }

    /// Returns the fault of a load that met the rejection. Its exit code is 77.
    pub(crate) fn into_fault(self) -> Fault {
        let Self { subject, version, reason, is_of_token, .. } = self;
        if is_of_token {
            return token_rejected(subject, &reason);
        }
        let remedy = remedy_of_rules(&reason).unwrap_or(
            "put the version that the other side accepts at the manager, or make the other side accept the version \
             at the manager: for a database, set that password",
        );
        let problem = format!("the other side rejects it, in version {version}: {reason}");
        Fault::new(Exit::Denied, subject, problem, remedy)
    }
}

/// Returns the fault of a token that the database rejects.
pub(crate) fn token_rejected(subject: impl Into<String>, reason: &str) -> Fault {
    let problem = format!("the database rejects the token that was signed for the log-in: {reason}");
    Fault::new(Exit::Denied, subject, problem, remedy_of_rules(reason).unwrap_or(REMEDY_OF_TOKEN))
}
