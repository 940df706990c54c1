//! Errors as a client sees them: problem+json (RFC 9457). The client gets a public text. The log gets the cause.

mod from_errors;
mod rejections;

use crate::{cause::reasons, request_context::RequestContext, resources::database::DatabaseUnavailable};
use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header, response::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use sqlx::error::DatabaseError;
use std::{borrow::Cow, error::Error, time::Duration};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The members that RFC 9457 defines.
const RESERVED: [&str; 5] = ["type", "title", "status", "detail", "instance"];

/// An error response (RFC 9457): a status, and a detail that tells the client what is wrong and what to change. Its
/// `instance` is `urn:trace:` and the request's id, by which the log has it too.
///
/// `?` makes one of a `sqlx::Error` or a [`CallError`](crate::CallError). The error goes to the log, and the client gets
/// a status that says if it may try again.
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
pub struct Problem(Box<ProblemParts>);

/// The parts of a problem. As JSON, they are the body of its response.
#[derive(Debug, Serialize)]
struct ProblemParts {
    r#type: Cow<'static, str>,
    title: Cow<'static, str>,
    #[serde(serialize_with = "serialize_status")]
    status: StatusCode,
    detail: Cow<'static, str>,
    /// The request, by its trace id. It is set when the response is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(flatten)]
    members: Map<String, Value>,
    /// In seconds.
    #[serde(skip)]
    retry_after: Option<u64>,
    /// The header `WWW-Authenticate`.
    #[serde(skip)]
    challenge: Option<HeaderValue>,
    #[serde(skip)]
    cause: Option<Box<dyn Error + Send + Sync>>,
}

fn serialize_status<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    /// Returns a problem of any status. The client reads `detail`.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(ProblemParts {
            r#type: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status,
            detail: detail.into(),
            instance: None,
            members: Map::new(),
            retry_after: None,
            challenge: None,
            cause: None,
        }))
    }

    /// Returns a 400: the request is wrong, and `detail` says what to change.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Returns a 404.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Returns a 503 with a `Retry-After` of 1 to 3 s: the client may try again then. The time is random, so that the
    /// clients of a busy moment do not come back together.
    pub fn busy(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(soon())
    }

    /// Returns a 500. The client learns nothing about it; [`with_cause`](Self::with_cause) tells the log.
    ///
    /// ```
    /// use vestibule::Problem;
    ///
    /// fn page_of(template: &str) -> Result<String, Problem> {
    ///     std::fs::read_to_string(template).map_err(|error| Problem::internal().with_cause(error))
    /// }
    /// # assert!(page_of("/no/such/file").is_err());
    /// ```
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed on our side")
    }

    /// Sets the type, a URI. A client's program can tell by it which problem it has, whatever the texts say. The default
    /// is `about:blank`: there is nothing to know but the status.
    ///
    /// ```
    /// use axum::http::StatusCode;
    /// use vestibule::Problem;
    ///
    /// fn not_enough(balance: u32) -> Problem {
    ///     Problem::new(StatusCode::FORBIDDEN, format!("this costs 50, and the balance is {balance}"))
    ///         .with_type("https://example.com/problems/out-of-credit")
    ///         .with_title("You do not have enough credit")
    ///         .with("balance", balance)
    /// }
    /// # use axum::response::IntoResponse;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// #     let body = axum::body::to_bytes(not_enough(30).into_response().into_body(), 4096).await.unwrap();
    /// #     let json = serde_json::from_slice::<serde_json::Value>(&body).unwrap();
    /// #     assert_eq!(json["type"], "https://example.com/problems/out-of-credit");
    /// #     assert_eq!(json["title"], "You do not have enough credit");
    /// #     assert_eq!(json["status"], 403);
    /// #     assert_eq!(json["balance"], 30);
    /// # });
    /// ```
    pub fn with_type(mut self, uri: impl Into<Cow<'static, str>>) -> Self {
        self.0.r#type = uri.into();
        self
    }

    /// Sets the title: a summary that is the same for all problems of this type. The default is the phrase of the status.
    pub fn with_title(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.0.title = title.into();
        self
    }

    /// Adds an extension member, which a client's program reads. [`with_type`](Self::with_type) has an example.
    ///
    /// The names `type`, `title`, `status`, `detail` and `instance` belong to RFC 9457. If `name` is one of them, or if
    /// `value` cannot be JSON, the response goes without this member, and the log says so.
    ///
    /// ```
    /// # use axum::response::IntoResponse;
    /// use vestibule::Problem;
    ///
    /// let problem = Problem::not_found("there is no such page").with("status", 200).with("page", 7);
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let body = axum::body::to_bytes(problem.into_response().into_body(), 4096).await.unwrap();
    /// let json = serde_json::from_slice::<serde_json::Value>(&body).unwrap();
    /// assert_eq!((&json["status"], &json["page"]), (&404.into(), &7.into()));
    /// # });
    /// ```
    pub fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        let value = if RESERVED.contains(&name) { None } else { serde_json::to_value(value).ok() };
        match value {
            Some(value) => _ = self.0.members.insert(name.to_owned(), value),
            None => {
                tracing::error!(
                    problem.member = name,
                    "a problem cannot have this member; the response goes without it"
                );
            }
        }
        self
    }

    /// Sets the cause. It is logged when the problem becomes a response: as an error if the status is a 5xx, otherwise as
    /// information. The client never gets it.
    ///
    /// The log has the texts of the error and of its sources, so they must not quote a secret. Of what the database answered
    /// it has the SQLSTATE and the names of tables, columns and constraints: its message may quote values. Text is a cause
    /// too.
    ///
    /// ```
    /// use axum::http::StatusCode;
    /// use vestibule::Problem;
    ///
    /// fn volume(text: &str) -> Result<u8, Problem> {
    ///     text.parse().map_err(|error| Problem::bad_request("the volume is a number from 0 to 255").with_cause(error))
    /// }
    ///
    /// fn no_paper() -> Problem {
    ///     Problem::new(StatusCode::INSUFFICIENT_STORAGE, "printing is not possible today").with_cause("no paper")
    /// }
    /// # assert!(volume("loud").is_err());
    /// # no_paper();
    /// ```
    pub fn with_cause(mut self, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(error.into());
        self
    }

    /// Sets the header `Retry-After`: the time after which the client may try again. It is rounded up to whole seconds.
    ///
    /// ```
    /// # use axum::response::IntoResponse;
    /// use axum::http::StatusCode;
    /// use std::time::Duration;
    /// use vestibule::Problem;
    ///
    /// let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "one request per minute is allowed")
    ///     .retry_after(Duration::from_millis(1500));
    /// assert_eq!(problem.into_response().headers()["retry-after"], "2");
    /// ```
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause.as_secs().saturating_add(u64::from(pause.subsec_nanos() > 0)));
        self
    }
}

impl Problem {
    /// Sets the header `WWW-Authenticate`. A text that cannot be a header is left out.
    pub(crate) fn challenge(mut self, challenge: String) -> Self {
        self.0.challenge = HeaderValue::try_from(challenge).ok();
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut problem = self.0;
        problem.instance = RequestContext::current().map(|request| format!("urn:trace:{:032x}", request.trace_id));
        if let Some(cause) = &problem.cause {
            log_cause(problem.status, &**cause);
        }
        let mut response = (problem.status, Json(&*problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if let Some(seconds) = problem.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = problem.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Logs the cause of a problem. An error of a route ends here.
fn log_cause(status: StatusCode, cause: &(dyn Error + 'static)) {
    if let Some(error) = cause.downcast_ref::<sqlx::Error>() {
        log_database_error(error);
        return;
    }
    let (status, error) = (status.as_u16(), reasons(cause));
    if status >= 500 {
        tracing::error!(http.response.status_code = status, error, "a request failed");
    } else {
        tracing::info!(http.response.status_code = status, error, "a request was refused");
    }
}

fn log_database_error(error: &sqlx::Error) {
    // The pool has logged the rejection, once per version. Other log-ins that fail are many while the database is away.
    if DatabaseUnavailable::of(error).is_some() {
        tracing::debug!(%error, "a database call failed: no log-in succeeds");
        return;
    }
    let sqlstate = error.as_database_error().and_then(DatabaseError::code);
    let error = reasons(error);
    tracing::error!(error, db.response.status_code = sqlstate.as_deref(), "a database call failed");
}

/// The largest plain error text that becomes a detail, in bytes.
const MAX_DETAIL: usize = 4096;

/// Returns `true` if a response is an error and no problem: axum's own rejections are plain text, and a bare status has no
/// body. An error that a layer of the service has compressed stays as it is.
pub(crate) fn is_other_error(response: &Response) -> bool {
    let (status, headers) = (response.status(), response.headers());
    (status.is_client_error() || status.is_server_error())
        && !headers.contains_key(header::CONTENT_ENCODING)
        && match headers.get(header::CONTENT_TYPE) {
            Some(content_type) => content_type.as_bytes().starts_with(b"text/plain"),
            None => true,
        }
}

/// The headers that tell of a body.
const OF_BODY: [HeaderName; 6] = [
    header::CONTENT_DISPOSITION,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
];

/// Turns an error response into a problem. A 503 tells the client to try again only if the request `may_be_repeated`: the
/// handler may have done its work.
pub(crate) async fn unify(response: Response, may_be_repeated: bool) -> Response {
    let status = response.status();
    let (head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_DETAIL).await.unwrap_or_default();
    let mut problem = match std::str::from_utf8(&text) {
        Ok(text) if !text.is_empty() => rejections::problem(status, text),
        _ => Problem::new(status, default_detail(status, may_be_repeated)),
    };
    if status == StatusCode::SERVICE_UNAVAILABLE && may_be_repeated {
        problem = problem.retry_after(soon());
    }
    in_head(head, problem)
}

/// Returns a problem in place of an error response. The headers of the layers around the route stay.
pub(crate) fn replace(response: Response, problem: Problem) -> Response {
    let (mut head, _) = response.into_parts();
    if head.status != problem.0.status {
        // It was for another error.
        head.headers.remove(header::RETRY_AFTER);
    }
    in_head(head, problem)
}

/// Returns the response of a problem, with the headers of another head too.
fn in_head(mut head: Parts, problem: Problem) -> Response {
    let (problem_head, body) = problem.into_response().into_parts();
    head.status = problem_head.status;
    for name in OF_BODY {
        // That of a 416 has the length of what the client asked for (RFC 9110, section 15.5.17).
        if name != header::CONTENT_RANGE || head.status != StatusCode::RANGE_NOT_SATISFIABLE {
            head.headers.remove(name);
        }
    }
    for (name, value) in &problem_head.headers {
        // What the route says itself counts, for example when to come back.
        head.headers.entry(name).or_insert_with(|| value.clone());
    }
    Response::from_parts(head, body)
}

/// Returns a time from 1 to 3 s.
fn soon() -> Duration {
    Duration::from_secs(fastrand::u64(1..=3))
}

/// Returns the detail of an error that says nothing itself.
fn default_detail(status: StatusCode, may_be_repeated: bool) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is nothing at this path",
        StatusCode::METHOD_NOT_ALLOWED => "this path does not take this method; see the Allow header",
        // A 503 of a route should say why: `Problem::busy`.
        StatusCode::SERVICE_UNAVAILABLE if may_be_repeated => "the service cannot answer now; try again soon",
        StatusCode::SERVICE_UNAVAILABLE => "the service cannot answer now, and the request may have been carried out",
        status if status.is_server_error() => "the request failed on our side",
        status => status.canonical_reason().unwrap_or("the request is wrong"),
    }
}
