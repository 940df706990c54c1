//! Requests and answers in JSON.

use reqwest::{Body, Client, IntoUrl, RequestBuilder, Response};
use serde_json::Value;

/// Prepares a POST request with a body of `application/json`.
pub fn post_json(client: &Client, url: impl IntoUrl, body: impl Into<Body>) -> RequestBuilder {
    client.post(url).header("content-type", "application/json").body(body)
}

/// Returns the detail of a problem (RFC 9457), which an answer with this status must hold.
///
/// # Panics
/// If the answer has another status, or does not hold a problem.
pub async fn problem(answer: Response, status: u16) -> String {
    assert_eq!(answer.status().as_u16(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{answer:?}");
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["status"], status);
    assert!(!problem["title"].as_str().expect("a title").is_empty());
    problem["detail"].as_str().expect("a detail").to_owned()
}
