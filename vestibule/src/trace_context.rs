//! The place of a request in a trace that others keep, as it came: W3C Trace Context, level 1.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, request::Parts},
};
use std::convert::Infallible;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The most bytes of `tracestate` that are carried, section 3.3.1.5. A longer one is dropped whole.
const MOST_STATE: usize = 512;

/// What came with a request, to be passed on unchanged to whoever is called for it. Without a valid `traceparent` it is
/// empty. As an extractor it refuses nothing; as text it outlives the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    parent: Option<String>,
    state: Option<String>,
}

impl TraceContext {
    /// From the texts of the two headers.
    pub fn parse(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        let Some(parent) = traceparent.filter(|parent| is_parent(parent)) else { return Self::default() };
        let carried = |state: &&str| (1..=MOST_STATE).contains(&state.len()) && state.bytes().all(is_visible);
        Self { parent: Some(parent.into()), state: tracestate.filter(carried).map(Into::into) }
    }

    /// The header of this name.
    pub fn traceparent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// The header of this name.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Puts it on a request that goes out, in place of what is there.
    pub fn put_on(&self, headers: &mut HeaderMap) {
        for (name, text) in [(TRACEPARENT, &self.parent), (TRACESTATE, &self.state)] {
            headers.remove(&name);
            if let Some(value) = text.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
                headers.insert(name, value);
            }
        }
    }
}

impl<S: Sync> FromRequestParts<S> for TraceContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let texts = |name| parts.headers.get_all(name).iter().map(|value| value.to_str().ok());
        // Section 3.2: more than one is as none.
        let mut parents = texts(TRACEPARENT);
        let parent = parents.next().flatten().filter(|_| parents.next().is_none());
        // Section 3.3: several are one list.
        let state: Option<Vec<_>> = texts(TRACESTATE).collect();
        let state = state.unwrap_or_default().join(",");
        Ok(Self::parse(parent, Some(&state)))
    }
}

/// Section 3.2.2: version, trace id, parent id and flags in lower-case hex. A later version may have more after them.
fn is_parent(text: &str) -> bool {
    let mut parts = text.splitn(5, '-');
    let mut hex = |digits: usize| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|part| part.len() == digits && part.bytes().all(digit))
    };
    let (Some(version), Some(trace), Some(parent), Some(_)) = (hex(2), hex(32), hex(16), hex(2)) else { return false };
    let more = parts.next();
    let zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    version != "ff"
        && !zero(trace)
        && !zero(parent)
        && more.is_none_or(|more| version != "00" && more.bytes().all(is_visible))
        && text.len() <= MOST_STATE
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
    fn only_what_the_standard_allows_is_carried() {
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
    async fn it_goes_from_request_to_request_unchanged() {
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
