//! The reason why a service could not be built.

use super::rejection::Rejection;
use crate::exit::{Exit, Fault};

/// Why a service could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The other side refuses the credential. The version of a rotation that has not ended may be tried in its place.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Anything else, with what to do about it.
    #[error("{}: {}", .0.subject, .0.problem)]
    Fault(Fault),
}

impl BuildError {
    /// A setting of the `[service]` section that cannot be used. Ends a start with exit code 78.
    pub fn setting(key: &str, expected: &str) -> Self {
        Self::Fault(Fault::new(
            Exit::Config,
            format!("setting {key}"),
            format!("expected {expected}"),
            "correct the value",
        ))
    }

    pub(crate) fn bug(problem: &str) -> Self {
        Self::Fault(Fault::new(Exit::Bug, "Application::build", problem, "this is a bug: please report it"))
    }

    pub(crate) fn into_fault(self) -> Fault {
        match self {
            Self::Fault(fault) => fault,
            Self::Rejected(Rejection { subject, version, reason, .. }) => Fault::new(
                Exit::Denied,
                subject,
                format!("the login is refused, in version {version}: {reason}"),
                "put the version that the other side accepts at the manager, or make it accept the one at the manager: \
                 for a database, set that password",
            ),
        }
    }
}
