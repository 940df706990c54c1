//! The error with which `cargo dev` ends.

use crate::stack::error::Error;

/// A failure of `cargo dev`, as a text for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DevError(String);

impl DevError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<Error> for DevError {
    fn from(error: Error) -> Self {
        Self(error.report())
    }
}
