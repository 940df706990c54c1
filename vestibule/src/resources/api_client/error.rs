//! The error of a call.

use crate::secrets::credential::Name;
use axum::{BoxError, http::StatusCode};
use std::time::Duration;

/// The error of a call without a complete response. Its texts name the host at most: no query, no header, no body.
///
/// In a handler, `?` turns it into a [`Problem`](crate::Problem) for the client, and logs it.
///
/// ```
/// use axum::{body::Bytes, http::Request};
/// use vestibule::{ApiClient, CallError, Problem};
///
/// /// Returns the rates, or `None` if they take too long.
/// async fn rates(client: &ApiClient) -> Result<Option<Bytes>, Problem> {
///     let request = Request::get("/rates").body(Bytes::new()).expect("it is a path");
///     match client.send(request).await {
///         Ok(response) => Ok(Some(response.into_body())),
///         Err(CallError::Timeout(_)) => Ok(None),
///         Err(error) => Err(error.into()),
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request names a scheme or a host, or has no path. Nothing was sent.
    #[error("a call takes a path below the base URL, and got something else")]
    OutsideBaseUrl,
    /// The lease of the key has ended, and no other key is in service yet. Nothing was sent.
    #[error("the lease of credential `{credential}` has ended, and the manager has not made another one yet")]
    KeyEnded {
        /// The name of the key's credential.
        credential: Name,
    },
    /// There was no connection. Nothing was sent.
    #[error("no connection to {host}: {reason}")]
    NotConnected {
        /// The host, and the port if one is configured.
        host: String,
        /// The innermost cause, and what helps against it, if something does.
        reason: String,
    },
    /// The connection broke before the response. The other side may have received the request.
    #[error("the connection to {host} broke: {reason}")]
    ConnectionBroken {
        /// The host, and the port if one is configured.
        host: String,
        /// The innermost cause, and what helps against it, if something does.
        reason: String,
    },
    /// The other side responded, but the body of the response broke off, was late, or is larger than 1 MiB.
    #[error("the answer of {host}, {}, could not be read to its end: {reason}", status.as_u16())]
    BodyIncomplete {
        /// The host, and the port if one is configured.
        host: String,
        /// The status of the response.
        status: StatusCode,
        /// The innermost cause, and what helps against it, if something does.
        reason: String,
    },
    /// There was no response in time. The other side may have received the request.
    #[error("no answer came within {0:?}")]
    Timeout(Duration),
}

impl CallError {
    /// Returns the error of a stack with a timeout.
    pub(super) fn of(error: BoxError, timeout: Duration) -> Self {
        match error.downcast() {
            Ok(error) => *error,
            Err(_) => Self::Timeout(timeout),
        }
    }

    /// Returns the error as a word for metrics and traces.
    pub(super) fn error_type(&self) -> &'static str {
        match self {
            Self::OutsideBaseUrl => "outside_base_url",
            Self::KeyEnded { .. } => "key_ended",
            Self::NotConnected { .. } => "not_connected",
            Self::ConnectionBroken { .. } => "connection_broken",
            Self::BodyIncomplete { .. } => "body_incomplete",
            Self::Timeout(_) => "timeout",
        }
    }
}
