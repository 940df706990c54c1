//! Several requests at once.

use devstack::{
    RunningService,
    reqwest::{Client, Method, Response, StatusCode},
};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::task::JoinHandle;

/// Begins to get a path, and does not wait for the answer.
pub(crate) fn begin_get(running: &RunningService<'_>, path: &str) -> JoinHandle<Response> {
    let request = running.request(Method::GET, path);
    tokio::spawn(async { request.send().await.expect("an answer") })
}

/// Begins to create a note, and does not wait for the answer. The task returns its status.
pub(crate) fn begin_create(running: &RunningService<'_>, text: &str) -> JoinHandle<StatusCode> {
    let client = Client::builder().no_proxy().build().expect("a client");
    let request = devstack::post_json(&client, running.url("/v1/notes"), json!({ "body": text }).to_string());
    tokio::spawn(async { request.send().await.expect("an answer").status() })
}

/// Gets a path this many times at once.
pub(crate) async fn get_at_once(running: &RunningService<'_>, path: &str, count: usize) -> Vec<Response> {
    let requests: Vec<_> = (0..count).map(|_| begin_get(running, path)).collect();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await.expect("an answer"));
    }
    answers
}

/// Checks that all answers have this status.
///
/// # Panics
/// If one has another. The message shows the number of answers per status.
#[track_caller]
pub(crate) fn assert_statuses(answers: &[Response], status: StatusCode) {
    let mut counts = BTreeMap::<_, usize>::new();
    for answer in answers {
        *counts.entry(answer.status()).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([(status, answers.len())]));
}
