//! Answers of a Vault server.

use crate::{assert_printable, assert_quotes_nothing, with_sentinel};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::LOCATION};
use serde_json::json;
use vestibule::{
    fuzzing::{self, VaultTexts},
    secrets::ExposeSecret,
};

const INDEX: HeaderName = HeaderName::from_static("x-vault-index");

/// Checks an answer: a line each with the status, the index and the place of a redirect, and the body.
pub(crate) fn check(text: &str) {
    let text = &with_sentinel(text);
    let mut lines = text.splitn(4, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let status = next().parse().ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
    let mut headers = HeaderMap::new();
    for name in [INDEX, LOCATION] {
        headers.extend(HeaderValue::from_str(next()).map(|value| (name, value)));
    }
    let body = next();
    if let Some(named) = headers.get(INDEX).and_then(fuzzing::vault_index) {
        assert_eq!(fuzzing::vault_index(&named).as_ref(), Some(&named), "it is named again");
    }
    let VaultTexts { of_reads, of_logins, versions } = fuzzing::vault_texts(status, headers, body);
    for shown in of_reads.iter().chain(&of_logins).chain(&versions) {
        assert_printable(shown);
    }
    of_reads.iter().for_each(|shown| assert_quotes_nothing(shown));
    // The server's own messages about a login are quoted. An answer with a token has none.
    if status == StatusCode::OK {
        of_logins.iter().for_each(|shown| assert_quotes_nothing(shown));
    }
    let Some(value) = fuzzing::vault_value(body) else { return };
    let metadata = json!({ "version": 1, "created_time": "2026-01-01T00:00:00Z" });
    let again = json!({ "data": { "data": { "value": value.expose_secret() }, "metadata": metadata } }).to_string();
    let again = fuzzing::vault_value(&again).expect("it is an answer");
    assert_eq!(again.expose_secret(), value.expose_secret());
}
