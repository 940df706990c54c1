//! The problems that `?` makes of errors: those of the database, and those of calls to other services.

use super::Problem;
use crate::resources::{api_client::CallError, database::DatabaseUnavailable};
use axum::http::StatusCode;
use sqlx::error::DatabaseError;
use std::time::Duration;

const NOT_AVAILABLE: &str = "the database is not available; try again soon";

/// Turns an error of the database into 503 with `Retry-After` if the client may try again: the database is not
/// available, or it ended the transaction because of another one. Any other error is a 500. The log gets the error.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Configuration, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
        let sqlstate = error.as_database_error().and_then(DatabaseError::code);
        let sqlstate = sqlstate.as_deref().unwrap_or_default();
        let is_unavailable =
            matches!(error, Configuration(_) | PoolTimedOut | PoolClosed | Io(_) | Tls(_) | WorkerCrashed)
                || ["08", "28", "53", "57"].iter().any(|class| sqlstate.starts_with(class));
        if let Some(unavailable) = DatabaseUnavailable::of(&error) {
            let next_second = unavailable.retry_after + Duration::from_secs(1);
            return Self::busy(NOT_AVAILABLE).retry_after(next_second).with_cause(error);
        }
        let problem = match sqlstate {
            // A serialization failure, and a deadlock.
            "40001" | "40P01" => Self::busy("the request collided with another one; try again soon"),
            _ if is_unavailable => Self::busy(NOT_AVAILABLE),
            _ => Self::internal(),
        };
        problem.with_cause(error)
    }
}

/// Turns a failed call into the status of a gateway. The log gets the error, which names the host; the client does not.
///
/// | error | status |
/// |---|---|
/// | [`NotConnected`](CallError::NotConnected) | 503 with `Retry-After`. Nothing was sent, so the client may try again |
/// | [`KeyEnded`](CallError::KeyEnded) | 503 with `Retry-After`, too |
/// | [`Timeout`](CallError::Timeout) | 504 |
/// | [`ConnectionBroken`](CallError::ConnectionBroken), [`BodyIncomplete`](CallError::BodyIncomplete) | 502 |
/// | [`OutsideBaseUrl`](CallError::OutsideBaseUrl) | 500, because it is a bug |
///
/// After a 502 or a 504 the other side may have done its work, so these have no `Retry-After`.
///
/// ```
/// # use axum::response::IntoResponse;
/// use axum::{body::Bytes, http::Request};
/// use std::time::Duration;
/// use vestibule::{ApiClient, CallError, Problem};
///
/// async fn rates(client: &ApiClient) -> Result<Bytes, Problem> {
///     let request = Request::get("/rates").body(Bytes::new()).expect("it is a path");
///     Ok(client.send(request).await?.into_body())
/// }
///
/// let problem = Problem::from(CallError::Timeout(Duration::from_secs(3)));
/// assert_eq!(problem.into_response().status(), 504);
/// ```
impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let problem = match &error {
            CallError::OutsideBaseUrl => Self::internal(),
            CallError::NotConnected { .. } | CallError::KeyEnded { .. } => {
                Self::busy("another service cannot be reached; try again soon")
            }
            CallError::ConnectionBroken { .. } | CallError::BodyIncomplete { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "the answer of another service was cut off")
            }
            CallError::Timeout(_) => Self::new(StatusCode::GATEWAY_TIMEOUT, "another service did not answer in time"),
        };
        problem.with_cause(error)
    }
}
