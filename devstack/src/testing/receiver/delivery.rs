//! A request that came to a receiver.

use std::fmt;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode};

/// A request that came to a receiver. Its `Debug` does not show the key.
#[derive(Clone)]
pub struct Delivery {
    /// The time at which the whole request had come.
    pub at: Instant,
    /// The method, such as `POST`.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers without `Authorization`.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The label of the version that the key belongs to, if the receiver accepts the keys of a credential.
    pub stage: Option<&'static str>,
    /// The status of the answer. `None` if there is no answer yet.
    pub answered: Option<StatusCode>,
    pub(super) key: Option<String>,
}

impl Delivery {
    /// Returns true if the request came with this key.
    pub fn bears(&self, key: &str) -> bool {
        self.key.as_deref() == Some(key)
    }

    /// Returns the body as JSON, or null if it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns a header as text, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns true if the answer was a success.
    pub(super) fn succeeded(&self) -> bool {
        self.answered.is_some_and(|status| status.is_success())
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, headers, body, answered, .. } = self;
        let body = String::from_utf8_lossy(body);
        write!(f, "{method} {path} {headers:?} {body} => {answered:?}")
    }
}
