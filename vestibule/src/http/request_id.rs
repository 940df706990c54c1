//! The id of a request, which is its trace id.

use crate::{request_context::RequestContext, trace_context::SpanParent};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
};
use std::{convert::Infallible, fmt};
use uuid::Uuid;

/// The header in which a response names the request's id.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request: its trace id (W3C Trace Context), as 32 hexadecimal digits.
///
/// The response names it in `x-request-id`, each log line of the request in `trace_id`, and a [`Problem`](crate::Problem)
/// in `instance`. It is the trace id of the request's `traceparent`. Without one, it is the request's `x-request-id`,
/// if that is a UUID or has 32 hexadecimal digits. Otherwise it is new. A client can choose it, so it proves nothing.
///
/// ```
/// use vestibule::RequestId;
///
/// async fn receipt(id: RequestId) -> String {
///     format!("ask for help with this number: {id}")
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// Returns the id as a number.
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(match RequestContext::current() {
            Some(context) => context.trace_id,
            // A test calls the handler without a door.
            None => trace_id(SpanParent::of(&parts.headers), &parts.headers),
        }))
    }
}

/// Returns the trace id of a request with this parent and these headers: the client's, or a new one.
pub(super) fn trace_id(parent: Option<SpanParent>, headers: &HeaderMap) -> u128 {
    parent.map(|parent| parent.trace_id).or_else(|| named(headers.get(X_REQUEST_ID)?)).unwrap_or_else(random)
}

/// Returns a random trace id.
pub(super) fn random() -> u128 {
    // Not from the system's generator: an id is no secret, and a system call per request costs more than all of this.
    fastrand::u128(..).max(1)
}

fn named(id: &HeaderValue) -> Option<u128> {
    let text = id.to_str().ok()?;
    match text.len() {
        32 | 36 => match Uuid::try_parse(text).ok()?.as_u128() {
            0 => None,
            id => Some(id),
        },
        _ => None,
    }
}

/// Returns the id for the header of a response.
pub(super) fn header_value(trace_id: u128) -> HeaderValue {
    let mut text = [0; 32];
    let text = Uuid::from_u128(trace_id).simple().encode_lower(&mut text);
    HeaderValue::from_str(text).expect("hexadecimal digits are valid in a header")
}
