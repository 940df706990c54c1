//! Texts of clients: tokens such as the cursor of a list, signatures, and trace context.

use axum::http::HeaderMap;
use std::sync::LazyLock;
use vestibule::{Signature, Signer, TraceContext, fuzzing};

static SIGNER: LazyLock<Signer> = LazyLock::new(|| fuzzing::signer("cursor"));

/// A signer for which every token of the first one is void. libFuzzer sees the tokens, and tries them.
static OTHER: LazyLock<Signer> = LazyLock::new(|| fuzzing::signer("session"));

/// Checks the text as a token, as a signature, as changes to a token, and as trace context.
pub(crate) fn check(text: &str) {
    assert!(OTHER.open(text).is_err(), "a token was opened that was not sealed");
    let sealed = SIGNER.seal(text.as_bytes());
    assert_eq!(SIGNER.open(&sealed).as_deref(), Ok(text.as_bytes()));
    changed(&sealed, text);
    if let Ok(signature) = text.parse::<Signature>() {
        assert_eq!(signature.to_string(), text, "two texts are one signature");
        assert!(OTHER.verify(b"message", &signature).is_err());
    }
    trace_context(text);
}

/// Checks that a token with another character anywhere is void. Each pair of bytes is a place and a character.
fn changed(sealed: &str, text: &str) {
    let mut token = sealed.as_bytes().to_vec();
    for pair in text.as_bytes().chunks_exact(2).take(4) {
        let place = usize::from(pair[0]) % token.len();
        token[place] = pair[1];
    }
    let Ok(token) = str::from_utf8(&token) else { return };
    assert!(token == sealed || SIGNER.open(token).is_err(), "a changed token was opened");
}

/// Checks trace context: the first line is `traceparent`, the second one is `tracestate`.
fn trace_context(text: &str) {
    let (parent, state) = text.split_once('\n').unwrap_or((text, ""));
    let context = TraceContext::parse(Some(parent), Some(state));
    if let Some(passed_on) = context.traceparent() {
        assert_eq!(passed_on, parent);
        assert!(parent.len() >= 55 && parent.is_char_boundary(55) && !parent.starts_with("ff"));
    }
    assert!(context.tracestate().is_none_or(|passed_on| passed_on == state && context.traceparent().is_some()));
    let mut headers = HeaderMap::new();
    context.put_on(&mut headers);
    assert_eq!(headers.contains_key("traceparent"), context.traceparent().is_some());
    assert_eq!(headers.contains_key("tracestate"), context.tracestate().is_some());
}
