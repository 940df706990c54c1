use std::{error::Error, time::Duration};

/// Why a call has no answer. What is told of causes names hosts at most: no query, no header, no body.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request names a scheme or a host, or no path. Nothing was sent.
    #[error("a call takes a path below the base URL, and got something else")]
    Elsewhere,
    /// Nothing was sent.
    #[error("no connection to {host}: {why}")]
    Unconnected {
        /// And port, where one is configured.
        host: String,
        /// The reasons, the innermost last.
        why: String,
    },
    /// The request may have been taken.
    #[error("the connection to {host} broke: {why}")]
    Broken {
        /// And port, where one is configured.
        host: String,
        /// The reasons, the innermost last.
        why: String,
    },
    /// The request was taken.
    #[error("the answer of {host} is larger than 1 MiB")]
    TooLarge {
        /// And port, where one is configured.
        host: String,
    },
    /// The request may have been taken.
    #[error("no answer came within {0:?}")]
    Timeout(Duration),
}

/// An error and its causes in one line.
pub(super) fn reasons(error: &dyn Error) -> String {
    let mut reasons = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        reasons = format!("{reasons}: {error}");
        cause = error.source();
    }
    reasons
}
