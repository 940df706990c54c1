//! Trace context: the place of a request in a distributed trace (W3C Trace Context, level 1).

use crate::request_context::RequestContext;
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
};
use std::convert::Infallible;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The flags of a trace that is recorded (section 3.2.2.5).
const SAMPLED: &str = "01";

/// The largest `tracestate` that is passed on, in bytes (section 3.3.1.5). A larger one is dropped. A `traceparent` of a
/// later version has the same limit.
const MAX_BYTES: usize = 512;

/// The trace context of a request, to be passed on unchanged with the calls that the request causes.
///
/// As an extractor it never fails. It is what the request brings. If that has no valid `traceparent`, it begins with the
/// request: with its [`RequestId`](crate::RequestId), and sampled only if the request has a debug token. Its two texts can be stored, for calls that are
/// made after the request has ended.
///
/// ```
/// use axum::{body::Bytes, http::Request};
/// use vestibule::{ApiClient, CallError, TraceContext};
///
/// async fn exchange_rates(client: &ApiClient, trace: TraceContext) -> Result<Bytes, CallError> {
///     let mut request = Request::new(Bytes::new());
///     *request.uri_mut() = "/rates".parse().expect("it is a path");
///     trace.put_on(request.headers_mut());
///     Ok(client.send(request).await?.into_body())
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    parent: Option<String>,
    state: Option<String>,
}

impl TraceContext {
    /// Reads the values of the two headers. Drops a `tracestate` that is empty, malformed or larger than 512 bytes, and
    /// both if `traceparent` is malformed.
    ///
    /// ```
    /// use vestibule::TraceContext;
    ///
    /// let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    /// let trace = TraceContext::parse(Some(parent), Some("vendor=1"));
    /// assert_eq!((trace.traceparent(), trace.tracestate()), (Some(parent), Some("vendor=1")));
    /// assert_eq!(TraceContext::parse(Some("malformed"), Some("vendor=1")), TraceContext::default());
    /// ```
    pub fn parse(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        match (traceparent, tracestate) {
            (Some(parent), Some(state)) if is_parent(parent) && is_state(state) => {
                Self { parent: Some(parent.into()), state: Some(state.into()) }
            }
            (Some(parent), _) if is_parent(parent) => Self { parent: Some(parent.into()), state: None },
            _ => Self::default(),
        }
    }

    /// Returns the context of a trace that begins with a request.
    fn beginning_with(request: RequestContext) -> Self {
        let flags = if request.debug { SAMPLED } else { "00" };
        let parent = format!("00-{:032x}-{:016x}-{flags}", request.trace_id, fastrand::u64(1..));
        Self { parent: Some(parent), state: None }
    }

    /// Returns the value for the header `traceparent`.
    pub fn traceparent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// Returns the value for the header `tracestate`.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Sets both headers of an outgoing request. Removes headers of these names first.
    pub fn put_on(&self, headers: &mut HeaderMap) {
        for (name, text) in [(TRACEPARENT, &self.parent), (TRACESTATE, &self.state)] {
            headers.remove(&name);
            if let Some(text) = text
                && let Ok(value) = HeaderValue::from_str(text)
            {
                headers.insert(name, value);
            }
        }
    }
}

impl<S: Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let Some(parent) = parent(&parts.headers) else {
            return Ok(RequestContext::current().map(Self::beginning_with).unwrap_or_default());
        };
        // Section 3.3: several `tracestate` headers are one list.
        let state = texts(&parts.headers, TRACESTATE).unwrap_or_default().join(",");
        Ok(Self::parse(Some(parent), Some(&state)))
    }
}

/// Returns the trace id of a request with these headers. `None` if it has no valid `traceparent`.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<u128> {
    u128::from_str_radix(parent(headers)?.get(3..35)?, 16).ok()
}

/// Returns the `traceparent`, if it is valid. Section 3.2: several of them are treated as none.
fn parent(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_none() && is_parent(text) { Some(text) } else { None }
}

/// Returns the values of all headers of a name. Returns `None` if one of them is no text.
fn texts(headers: &HeaderMap, name: HeaderName) -> Option<Vec<&str>> {
    headers.get_all(name).iter().map(|value| value.to_str().ok()).collect()
}

/// Returns `true` if a text is a `traceparent` (section 3.2.2): version, trace id, parent id and flags in lower-case hex.
/// Later versions may have more after these.
fn is_parent(text: &str) -> bool {
    let mut parts = text.splitn(5, '-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let rest_is_valid = match parts.next() {
        Some(rest) => version != "00" && rest.bytes().all(is_visible),
        None => true,
    };
    is_hex(version, 2)
        && is_hex(trace, 32)
        && is_hex(parent, 16)
        && is_hex(flags, 2)
        && version != "ff"
        && !is_zero(trace)
        && !is_zero(parent)
        && rest_is_valid
        && text.len() <= MAX_BYTES
}

/// Returns `true` if a text is a `tracestate` that is passed on.
fn is_state(text: &str) -> bool {
    (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(is_visible)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_zero(id: &str) -> bool {
    id.bytes().all(|byte| byte == b'0')
}

fn is_visible(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parsed(parent: &str) -> Option<String> {
        TraceContext::parse(Some(parent), None).parent
    }

    #[test]
    fn only_a_traceparent_of_the_standard_is_passed_on() {
        assert_eq!(parsed(PARENT).as_deref(), Some(PARENT));
        assert!(parsed(&PARENT.replace("00-0", "01-0")).is_some(), "a later version");
        assert!(parsed(&format!("{}-more", PARENT.replace("00-0", "01-0"))).is_some(), "with more");
        for wrong in [
            "",
            "00",
            &PARENT.to_uppercase(),
            &PARENT.replace("00-0", "ff-0"),
            &format!("{PARENT}-more"),
            &format!("{PARENT}0"),
            &format!(" {PARENT}"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_state_without_a_parent_or_too_long_is_dropped() {
        let state = |parent, state: &str| TraceContext::parse(parent, Some(state)).state;
        assert_eq!(state(Some(PARENT), "a=b").as_deref(), Some("a=b"));
        assert_eq!(state(None, "a=b"), None);
        assert_eq!(state(Some(PARENT), &"a".repeat(513)), None);
        assert_eq!(state(Some(PARENT), "a=\n"), None);
    }

    #[tokio::test]
    async fn a_trace_context_goes_from_request_to_request_unchanged() {
        let request = axum::http::Request::builder()
            .header("traceparent", PARENT)
            .header("tracestate", "a=b")
            .header("tracestate", "c=d");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let Ok(context) = TraceContext::from_request_parts(&mut parts, &()).await;
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static("old"));
        context.put_on(&mut headers);
        assert_eq!(
            (headers["traceparent"].as_bytes(), headers["tracestate"].as_bytes()),
            (PARENT.as_bytes(), &b"a=b,c=d"[..])
        );

        parts.headers.append("traceparent", HeaderValue::from_static(PARENT));
        let Ok(context) = TraceContext::from_request_parts(&mut parts, &()).await;
        assert_eq!(context, TraceContext::default(), "two parents are none");
        context.put_on(&mut headers);
        assert!(headers.is_empty());
    }
}
