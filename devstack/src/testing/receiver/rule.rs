//! The scripted answers of a receiver, and the requests that get them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

/// An answer to a request with an accepted key, in place of 202.
#[derive(Clone, Debug)]
pub enum ScriptedAnswer {
    /// This status.
    Status(u16),
    /// This status, and `Retry-After` with this many seconds.
    RetryAfter(u16, u64),
    /// 302 to this URL.
    Redirect(String),
    /// 202, this much later.
    Delay(Duration),
    /// No answer, and the connection stays open.
    BlackHole,
    /// No answer, and the connection closes.
    Reset,
}

type BodyCondition = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A rule: an answer, and the requests that get it.
#[derive(Clone)]
pub struct AnswerRule {
    condition: Option<BodyCondition>,
    answer: ScriptedAnswer,
    left: usize,
}

impl AnswerRule {
    /// Answers every request.
    pub fn all(answer: ScriptedAnswer) -> Self {
        Self { condition: None, answer, left: usize::MAX }
    }

    /// Answers the requests whose body meets a condition.
    pub fn on(condition: impl Fn(&[u8]) -> bool + Send + Sync + 'static, answer: ScriptedAnswer) -> Self {
        Self { condition: Some(Arc::new(condition)), ..Self::all(answer) }
    }

    /// Limits the rule to this many requests.
    pub fn times(self, times: usize) -> Self {
        Self { left: times, ..self }
    }

    /// Returns the answer if the rule matches, and counts the request.
    pub(super) fn apply(&mut self, body: &[u8]) -> Option<ScriptedAnswer> {
        let matches = self.condition.as_ref().is_none_or(|condition| condition(body));
        if self.left == 0 || !matches {
            return None;
        }
        self.left -= 1;
        Some(self.answer.clone())
    }
}

impl ScriptedAnswer {
    /// Gives this answer, or does not end.
    pub(super) async fn response(self) -> Response {
        match self {
            Self::Status(code) => status(code).into_response(),
            Self::RetryAfter(code, seconds) => {
                (status(code), [(header::RETRY_AFTER, seconds.to_string())]).into_response()
            }
            Self::Redirect(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
            Self::Delay(delay) => {
                tokio::time::sleep(delay).await;
                StatusCode::ACCEPTED.into_response()
            }
            Self::BlackHole => std::future::pending().await,
            // The server sends the head with the first part of the body. An error in place of that part leaves nothing
            // to send.
            Self::Reset => {
                let reset = async { Err::<&str, _>(io::Error::from(io::ErrorKind::ConnectionReset)) };
                (StatusCode::BAD_GATEWAY, Body::from_stream(stream::once(reset))).into_response()
            }
        }
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
