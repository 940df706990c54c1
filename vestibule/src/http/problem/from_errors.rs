//! The problems that `?` makes of errors: those of the database, and those of calls to other services.

use super::Problem;
use crate::resources::{api_client::CallError, database::DatabaseUnavailable};
use axum::http::StatusCode;
use sqlx::error::DatabaseError;
use std::time::Duration;

const NOT_AVAILABLE: &str = "the database is not available; try again soon";

const CONNECTION_BROKE: &str = "the connection to the database broke, and the request may have been carried out";

/// Turns an error of the database into 503 with `Retry-After` if the client may try again: there was no connection, or
/// the database undid the statement or the transaction. It knows no other one of the request: do the writes of a request in one
/// transaction. A 503 because a connection broke has no `Retry-After`: the database may have done the work.
/// Any other error is a 500. The log gets the error.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Configuration, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
        let sqlstate = error.as_database_error().and_then(DatabaseError::code);
        let sqlstate = sqlstate.as_deref().unwrap_or_default();
        if let Some(unavailable) = DatabaseUnavailable::of(&error) {
            let next_second = unavailable.retry_after + Duration::from_secs(1);
            return Self::busy(NOT_AVAILABLE).retry_after(next_second).with_cause(error);
        }
        let problem = match (&error, sqlstate) {
            // A serialization failure, and a deadlock.
            (_, "40001" | "40P01") => Self::busy("the request collided with another one; try again soon"),
            (Configuration(_) | PoolTimedOut | PoolClosed | Tls(_), _) => Self::busy(NOT_AVAILABLE),
            (_, code) if has_done_nothing(code) => Self::busy(NOT_AVAILABLE),
            (Io(_) | WorkerCrashed, _) => Self::new(StatusCode::SERVICE_UNAVAILABLE, CONNECTION_BROKE),
            (_, code) if is_of_class(code, ["08", "57"]) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, CONNECTION_BROKE)
            }
            _ => Self::internal(),
        };
        problem.with_cause(error)
    }
}

/// Returns `true` if the database has done nothing: it lets nobody in (08001, 08004, class 28, 57P03), it lacks room or
/// connections (class 53), or it has ended the statement (57014).
fn has_done_nothing(sqlstate: &str) -> bool {
    matches!(sqlstate, "08001" | "08004" | "57014" | "57P03") || is_of_class(sqlstate, ["28", "53"])
}

fn is_of_class(sqlstate: &str, classes: [&str; 2]) -> bool {
    classes.iter().any(|class| sqlstate.starts_with(class))
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
