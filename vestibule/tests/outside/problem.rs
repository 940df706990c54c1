//! Problems, as a client and the reader of the log see them.

use crate::captured_log::CapturedLog;
use axum::{
    body::{Body, Bytes},
    extract::{Path, Request},
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tower::Service as _;
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, CallError, OpenApiRouter, Package, Problem, SecretSet, config::Config, http::Door,
    sqlx,
};

#[derive(SecretSet)]
struct NoSecrets {}

/// A service whose requests all fail.
struct FailingService;

impl Application for FailingService {
    const PACKAGE: Package = Package::new("failing", "0");
    type Settings = ();
    type Secrets = NoSecrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().route("/{failure}", get(fail))
    }
}

async fn fail(Path(failure): Path<String>) -> Result<(), Problem> {
    let (host, reason) = ("rates.internal:8443".to_owned(), "connection refused".to_owned());
    match failure.as_str() {
        "credit" => Err(Problem::new(StatusCode::FORBIDDEN, "this costs 50")
            .with_type("https://example.com/out-of-credit")
            .with_title("Not enough credit")
            .with("balance", 30)
            .with("accounts", ["/1", "/2"])
            .with("status", 200)
            .with("rates", BTreeMap::from([((1, 2), 3)]))),
        "disk" => Err(Problem::internal().with_cause(WriteFailed(io::Error::other("no space left")))),
        "number" => {
            Err(Problem::bad_request("give a number").with_cause("x".parse::<u8>().expect_err("it is no number")))
        }
        "not_connected" => Err(CallError::NotConnected { host, reason })?,
        "broken" => Err(CallError::ConnectionBroken { host, reason })?,
        "incomplete" => Err(CallError::BodyIncomplete { host, status: StatusCode::OK, reason })?,
        "timeout" => Err(CallError::Timeout(Duration::from_secs(3)))?,
        "outside" => Err(CallError::OutsideBaseUrl)?,
        "pool" => Err(sqlx::Error::PoolTimedOut)?,
        "reset" => Err(sqlx::Error::Io(io::ErrorKind::ConnectionReset.into()))?,
        "crashed" => Err(sqlx::Error::WorkerCrashed)?,
        "row" => Err(sqlx::Error::RowNotFound)?,
        _ => Ok(()),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("could not write the picture")]
struct WriteFailed(#[source] io::Error);

/// Sends a request to the service. Returns the answer's status, headers and body, and the events of the log.
async fn get_failure(failure: &str) -> (u16, HeaderMap, Value, Vec<Value>) {
    let service =
        Harness::<FailingService>::start(MemoryManager::new(), Config::default()).await.expect("it needs nothing");
    let (log, guard) = CapturedLog::start();
    let request = Request::get(format!("/{failure}")).body(Body::empty()).expect("a request");
    let Ok(answer) = Door::new(service.live()).call(request).await;
    drop(guard);
    let (head, body) = answer.into_parts();
    assert_eq!(head.headers[header::CONTENT_TYPE], "application/problem+json");
    let body: Bytes = axum::body::to_bytes(Body::new(body), 4096).await.expect("a body");
    let body = std::str::from_utf8(&body).expect("UTF-8").parse().expect("JSON");
    (head.status.as_u16(), head.headers, body, log.take())
}

#[tokio::test]
async fn a_problem_has_its_type_its_title_and_its_members_but_none_that_the_standard_reserves() {
    let (status, headers, mut body, log) = get_failure("credit").await;
    assert_eq!(status, 403);
    let instance = body.as_object_mut().unwrap().remove("instance").expect("the request");
    assert_eq!(instance, format!("urn:trace:{}", headers["x-request-id"].to_str().unwrap()));
    assert_eq!(
        body,
        json!({
            "type": "https://example.com/out-of-credit",
            "title": "Not enough credit",
            "status": 403,
            "detail": "this costs 50",
            "balance": 30,
            "accounts": ["/1", "/2"],
        })
    );
    let members: Vec<_> = log.iter().map(|event| &event["fields"]["problem.member"]).collect();
    assert_eq!(members, ["status", "rates"], "{log:#?}");
}

#[tokio::test]
async fn a_cause_is_logged_once_with_its_sources_and_never_shown_to_the_client() {
    let (status, _, body, log) = get_failure("disk").await;
    assert_eq!(status, 500);
    assert_eq!(body["detail"], "the request failed on our side");
    assert!(!body.to_string().contains("picture"), "{body}");
    assert_eq!(log.len(), 1, "{log:#?}");
    assert_eq!((&log[0]["level"], &log[0]["fields"]["message"]), (&json!("ERROR"), &json!("a request failed")));
    assert_eq!(log[0]["fields"]["error"], "could not write the picture: no space left");

    let (_, _, body, log) = get_failure("number").await;
    assert_eq!(body["detail"], "give a number");
    assert_eq!(log[0]["level"], "INFO", "a mistake of the client is no error of ours: {log:#?}");
}

#[tokio::test]
async fn a_failed_call_to_another_service_gets_the_status_of_a_gateway_and_its_host_stays_in_the_log() {
    for (failure, expected) in
        [("not_connected", 503), ("broken", 502), ("incomplete", 502), ("timeout", 504), ("outside", 500)]
    {
        let (status, headers, body, log) = get_failure(failure).await;
        assert_eq!(status, expected, "{failure}");
        let retry_after = headers.get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
        assert_eq!(retry_after.is_some(), expected == 503, "{failure}");
        assert!(retry_after.is_none_or(|seconds| ["1", "2", "3"].contains(&seconds)), "{retry_after:?}");
        assert!(!body.to_string().contains("rates.internal"), "{body}");
        assert_eq!(log.len(), 1, "{log:#?}");
        let has_host = log[0]["fields"]["error"].as_str().unwrap().contains("rates.internal:8443");
        assert_eq!(has_host, !["timeout", "outside"].contains(&failure), "{log:#?}");
    }
}

#[tokio::test]
async fn an_error_of_a_connection_is_503_and_only_if_there_was_none_may_the_client_try_again() {
    for (failure, expected) in
        [("pool", (503, true)), ("reset", (503, false)), ("crashed", (503, false)), ("row", (500, false))]
    {
        let (status, headers, body, log) = get_failure(failure).await;
        assert_eq!((status, headers.contains_key(header::RETRY_AFTER)), expected, "{failure}");
        assert_eq!(body["detail"].as_str().unwrap().contains("try again"), expected.1, "{body}");
        assert_eq!(log[0]["fields"]["message"], "a database call failed");
    }
}
