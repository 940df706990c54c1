//! The error of a service that cannot be built.

use super::rejection::Rejection;
use crate::exit::{Exit, Fault};

/// The error with which [`Application::build`](crate::Application::build) fails.
///
/// The methods of [`Build`](crate::Build) return it, and `?` turns a [`Rejection`] into it.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The other side rejects the credential. If a rotation is under way, the load may try the pending version instead.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Anything else. The fault says what to do about it.
    #[error("{}: {}", .0.subject, .0.problem)]
    Fault(Fault),
}

impl BuildError {
    /// Makes the error of a setting in the `[service]` section that cannot be used. A start ends with exit code 78.
    ///
    /// ```
    /// use vestibule::BuildError;
    ///
    /// fn page_size(setting: u32) -> Result<u32, BuildError> {
    ///     match setting {
    ///         1..=1000 => Ok(setting),
    ///         _ => Err(BuildError::setting("service.page_size", "a number from 1 to 1000")),
    ///     }
    /// }
    /// # assert_eq!(page_size(0).unwrap_err().to_string(), "setting service.page_size: expected a number from 1 to 1000");
    /// ```
    pub fn setting(key: &str, expected: &str) -> Self {
        Self::Fault(Fault::new(
            Exit::Config,
            format!("setting {key}"),
            format!("expected {expected}"),
            "correct the value",
        ))
    }

    /// Makes the error of a bug in the service or in the framework. Ends a start with exit code 70.
    pub(crate) fn bug(problem: &str) -> Self {
        Self::Fault(Fault::new(Exit::Bug, "Application::build", problem, "this is a bug: please report it"))
    }

    /// Turns the error into a fault for a report. A rejection becomes a fault with exit code 77.
    pub(crate) fn into_fault(self) -> Fault {
        match self {
            Self::Fault(fault) => fault,
            Self::Rejected(rejection) => rejection.into_fault(),
        }
    }
}
