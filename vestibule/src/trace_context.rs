//! Trace context: the place of a request in a distributed trace (W3C Trace Context, level 1).

use crate::request_context::{CurrentSpan, RequestContext};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
};
use std::{convert::Infallible, fmt, num::NonZeroU64};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The largest `tracestate` that is passed on, in bytes (section 3.3.1.5). A larger one is dropped. A `traceparent` of a
/// later version has the same limit.
const MAX_BYTES: usize = 512;

/// The trace context of a request, to be passed on with the calls that the request causes.
///
/// As an extractor it never fails. If traces are on (`[traces]`), the parent of these calls is the span of the request.
/// If traces are off, it is what the request brings, unchanged. If that has no valid `traceparent`, it begins with the
/// request: with its [`RequestId`](crate::RequestId), and sampled only if the request has a debug token.
///
/// With traces on, a call of an [`ApiClient`](crate::ApiClient) within a request needs no help: it has the `traceparent`.
/// This type is for other clients, for `tracestate`, and for calls that are made after the request has ended: its two
/// texts can be stored.
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

    /// Returns the context of what a request causes, as far as the headers of the request do not say it.
    fn within(request: RequestContext) -> Self {
        let span = request.span.unwrap_or_else(|| CurrentSpan { id: new_span_id(), is_sampled: request.debug });
        Self { parent: Some(SpanParent::within(request.trace_id, span).to_string()), state: None }
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
        let request = RequestContext::current();
        let Some(parent) = parent(&parts.headers) else {
            return Ok(request.map(Self::within).unwrap_or_default());
        };
        // Section 3.3: several `tracestate` headers are one list.
        let state = texts(&parts.headers, TRACESTATE).unwrap_or_default().join(",");
        let brought = Self::parse(Some(parent), Some(&state));
        match request {
            Some(request) if request.span.is_some() => Ok(Self { state: brought.state, ..Self::within(request) }),
            _ => Ok(brought),
        }
    }
}

/// The parent of a span, as a `traceparent` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanParent {
    pub(crate) trace_id: u128,
    pub(crate) span_id: NonZeroU64,
    pub(crate) is_sampled: bool,
}

impl SpanParent {
    /// Returns the parent that a request names. `None` if it has no valid `traceparent`.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = parent(headers)?;
        Some(Self {
            trace_id: u128::from_str_radix(text.get(3..35)?, 16).ok()?,
            span_id: u64::from_str_radix(text.get(36..52)?, 16).ok()?.try_into().ok()?,
            is_sampled: u8::from_str_radix(text.get(53..55)?, 16).ok()? & 1 == 1,
        })
    }

    /// Returns a span of a trace as the parent of others.
    pub(crate) fn within(trace_id: u128, span: CurrentSpan) -> Self {
        Self { trace_id, span_id: span.id, is_sampled: span.is_sampled }
    }

    /// Names this parent to the receiver of a request.
    #[cfg(feature = "otlp")]
    pub(crate) fn put_on(self, headers: &mut HeaderMap) {
        let value = HeaderValue::try_from(self.to_string()).expect("hexadecimal digits are valid in a header");
        headers.insert(TRACEPARENT, value);
    }
}

impl fmt::Display for SpanParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

/// Returns the id of a new span. It is no secret, so it does not come from the system's generator.
pub(crate) fn new_span_id() -> NonZeroU64 {
    NonZeroU64::new(fastrand::u64(1..)).expect("the range begins with 1")
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
    fn a_parent_reads_the_same_after_it_was_written() {
        for (text, is_sampled) in [(PARENT, true), (&PARENT.replace("-01", "-00"), false)] {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_str(text).unwrap());
            let parent = SpanParent::of(&headers).unwrap();
            assert_eq!((parent.to_string().as_str(), parent.is_sampled), (text, is_sampled));
            assert_eq!(parent.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        }
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-0-01"));
        assert_eq!(SpanParent::of(&headers), None);
    }

    #[tokio::test]
    async fn the_parent_of_what_a_request_causes_is_its_span_and_the_decision_is_ours() {
        let request = axum::http::Request::builder().header("traceparent", PARENT).header("tracestate", "a=b");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let span = CurrentSpan { id: NonZeroU64::new(7).unwrap(), is_sampled: false };
        let within = RequestContext { trace_id: 1, generation: 1, debug: false, span: Some(span) };
        let extracting = TraceContext::from_request_parts(&mut parts, &());
        let context = within.within(|| futures_util::FutureExt::now_or_never(extracting)).unwrap().unwrap();
        let parent = "00-00000000000000000000000000000001-0000000000000007-00";
        assert_eq!((context.traceparent(), context.tracestate()), (Some(parent), Some("a=b")));
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
