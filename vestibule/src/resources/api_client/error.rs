use axum::http::StatusCode;
use std::{error::Error, io, time::Duration};

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
    /// The request was answered, but the body of the answer broke, was late, or is larger than 1 MiB.
    #[error("the answer of {host}, {}, could not be read to its end: {why}", status.as_u16())]
    Unread {
        /// And port, where one is configured.
        host: String,
        /// What was answered.
        status: StatusCode,
        /// The reasons, the innermost last.
        why: String,
    },
    /// The request may have been taken.
    #[error("no answer came within {0:?}")]
    Timeout(Duration),
}

/// An error and its causes in one line. Of HTTP itself only hyper's own words: in HTTP/2 the other side may write what
/// it likes into what ends a connection.
pub(super) fn reasons(mut error: &(dyn Error + 'static)) -> String {
    let mut reasons = error.to_string();
    while let Some(cause) = error.source().filter(|cause| !error.is::<hyper::Error>() || cause.is::<io::Error>()) {
        reasons = format!("{reasons}: {cause}");
        error = cause;
    }
    reasons
}
