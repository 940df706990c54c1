//! Errors as a client sees them: problem+json (RFC 9457). The client gets a public text. The log gets the cause.

use crate::resources::database::DatabaseUnavailable;
use axum::{
    Json,
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::{any::Any, borrow::Cow};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error response (RFC 9457): a status, and a detail that tells the client what is wrong and what to change.
///
/// A `sqlx::Error` becomes a `Problem`. Its cause goes to the log, and the client gets 503 if it may try again, or 500.
///
/// ```
/// use axum::extract::{Path, State};
/// use vestibule::{Database, Problem};
///
/// async fn note(Path(id): Path<i64>, State(database): State<Database>) -> Result<String, Problem> {
///     if id < 1 {
///         return Err(Problem::bad_request("a note's id is 1 or more"));
///     }
///     let query = sqlx::query_scalar("SELECT body FROM messages WHERE id = $1").bind(id);
///     let note: Option<String> = query.fetch_optional(&database).await?;
///     note.ok_or_else(|| Problem::not_found("there is no note with this id"))
/// }
/// ```
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after: Option<u16>,
}

impl Problem {
    /// Returns a problem of any status. The client reads `detail`.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), retry_after: None }
    }

    /// Returns a 400: the request is wrong, and `detail` says what to change.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Returns a 404.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Returns a 503 with `Retry-After: 1`: the client may try again in a second.
    pub fn busy(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }
}

/// The JSON of a problem.
#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Logs the cause, because this conversion is where the error of a route ends. The client gets 503 if the database is not
/// available, and 500 for any other error.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Configuration, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
        let sqlstate = error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(Cow::into_owned);
        let class = sqlstate.as_deref().and_then(|code| code.get(..2));
        if let Io(cause) = &error
            && let Some(unavailable) = cause.get_ref().and_then(|cause| cause.downcast_ref::<DatabaseUnavailable>())
        {
            // The reload that follows logs a rejection, once per version.
            tracing::debug!(%error, "a database call failed: no log-in succeeds");
            let seconds = u16::try_from(unavailable.retry_after.as_secs() + 1).unwrap_or(u16::MAX);
            return Self { retry_after: Some(seconds), ..Self::busy(NOT_AVAILABLE) };
        }
        let is_unavailable =
            matches!(error, Configuration(_) | PoolTimedOut | PoolClosed | Io(_) | Tls(_) | WorkerCrashed)
                || matches!(class, Some("08" | "28" | "40" | "53" | "57"));
        tracing::error!(error = %error, db.response.status_code = sqlstate, "a database call failed");
        if is_unavailable {
            Self::busy(NOT_AVAILABLE)
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed on our side")
        }
    }
}

const NOT_AVAILABLE: &str = "the database is not available; try again soon";

/// The largest plain error text that becomes a detail, in bytes.
const MAX_DETAIL: usize = 4096;

/// Turns every error response into a problem: axum's own rejections are plain text, and a timeout has no body.
pub(super) async fn unify<B>(response: Response<B>) -> Response
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let response = response.map(Body::new);
    let status = response.status();
    let is_plain_text = match response.headers().get(header::CONTENT_TYPE) {
        Some(content_type) => content_type.as_bytes().starts_with(b"text/plain"),
        None => true,
    };
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || !is_plain_text {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_DETAIL).await.unwrap_or_default();
    let detail = match std::str::from_utf8(&text) {
        Ok(text) if !text.is_empty() => text.to_owned(),
        _ => default_detail(status).to_owned(),
    };
    let problem = match status {
        StatusCode::SERVICE_UNAVAILABLE => Problem::busy(detail),
        status => Problem::new(status, detail),
    };
    let (mut problem_head, body) = problem.into_response().into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.remove(header::CONTENT_TYPE);
    head.headers.extend(problem_head.headers.drain().filter_map(|(name, value)| Some((name?, value))));
    Response::from_parts(head, body)
}

/// Returns the detail of an error that says nothing itself.
fn default_detail(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is nothing at this path",
        StatusCode::METHOD_NOT_ALLOWED => "this path does not take this method; see the Allow header",
        // The 503 of the timeout layer has no text. A 503 of a route should have one: `Problem::busy`.
        StatusCode::SERVICE_UNAVAILABLE => "the request took too long; try again soon",
        status if status.is_server_error() => "the request failed on our side",
        status => status.canonical_reason().unwrap_or("the request is wrong"),
    }
}

/// Returns the response of a request whose handler panicked. The panic hook has logged the panic.
pub(super) fn of_panic(_: Box<dyn Any + Send + 'static>) -> axum::http::Response<Body> {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed on our side").into_response()
}
