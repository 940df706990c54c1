//! Errors as a client sees them: problem+json (RFC 9457). The client gets a public text, the log gets the cause.

use crate::resources::database::LoginRejected;
use axum::{
    Json,
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::{any::Any, borrow::Cow};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error for a client: what is wrong, and what to change.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after: Option<u16>,
}

impl Problem {
    /// A problem with a detail that the client may read.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), retry_after: None }
    }

    /// 400: the request is wrong, and `detail` says what to change.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 503, with `Retry-After: 1`.
    pub fn busy(detail: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Members<'a> {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            detail: &'a str,
        }
        let members = Members {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let mut response = (self.status, Json(members)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Logs the cause; the client learns whether trying again may help.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Configuration, Io, PoolClosed, PoolTimedOut, Tls, WorkerCrashed};
        let sqlstate = error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(Cow::into_owned);
        let class = sqlstate.as_deref().and_then(|code| code.get(..2));
        let away = matches!(error, Configuration(_) | PoolTimedOut | PoolClosed | Io(_) | Tls(_) | WorkerCrashed)
            || matches!(class, Some("08" | "28" | "53" | "57"));
        match &error {
            // Told once a version, where it was refused.
            Configuration(cause) if cause.is::<LoginRejected>() => {
                tracing::debug!(error = %error, "a database call had no login");
            }
            error => tracing::error!(error = %error, db.response.status_code = sqlstate, "a database call failed"),
        }
        if away {
            Self::busy("the database is not available; try again soon")
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed on our side")
        }
    }
}

/// The most bytes of a plain error text that are taken over as a detail.
const DETAIL: usize = 4096;

/// Gives every error the same form: axum's own rejections are plain text, a timeout is empty.
pub(super) async fn unify<B>(response: Response<B>) -> Response
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let response = response.map(Body::new);
    let status = response.status();
    let typed = response.headers().get(header::CONTENT_TYPE);
    let plain = typed.is_none_or(|value| value.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, DETAIL).await.unwrap_or_default();
    let detail = match std::str::from_utf8(&text) {
        Ok(text) if !text.is_empty() => text.to_owned(),
        _ => usual_detail(status).to_owned(),
    };
    let problem = Problem {
        retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        ..Problem::new(status, detail)
    };
    let (mut typed, body) = problem.into_response().into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.remove(header::CONTENT_TYPE);
    head.headers.extend(typed.headers.drain().filter_map(|(name, value)| Some((name?, value))));
    Response::from_parts(head, body)
}

fn usual_detail(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is nothing at this path",
        StatusCode::METHOD_NOT_ALLOWED => "this path does not take this method; see the Allow header",
        StatusCode::SERVICE_UNAVAILABLE => "the request took too long; try again soon",
        status if status.is_server_error() => "the request failed on our side",
        status => status.canonical_reason().unwrap_or("the request is wrong"),
    }
}

/// The panic itself is in the log, through the panic hook.
pub(super) fn of_panic(_: Box<dyn Any + Send + 'static>) -> axum::http::Response<Body> {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed on our side").into_response()
}
