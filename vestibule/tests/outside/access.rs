//! The access line of a request.

use crate::{
    captured_log::CapturedLog,
    frame_service::{FrameService, get_with, start},
};
use axum::{
    body::{Body, HttpBody},
    extract::{ConnectInfo, Request},
    http::Method,
};
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::{net::SocketAddr, num::NonZeroU32, pin::pin, task::Poll};
use tower::Service as _;
use vestibule::{Live, http::Door};

/// Returns the fields of the access lines since the last call.
fn lines(log: &CapturedLog) -> Vec<Value> {
    let events = log.take().into_iter().filter(|event| event["target"] == "vestibule::access");
    events.map(|event| event["fields"].clone()).collect()
}

/// Gets a path. Returns its access line.
async fn line_of(service: &Live<FrameService>, method: &str, path: &str) -> Value {
    let (log, _guard) = CapturedLog::start();
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
    request.extensions_mut().insert(ConnectInfo::<SocketAddr>("192.0.2.7:80".parse().expect("an address")));
    let Ok(answer) = Door::new(service.clone()).call(request).await;
    // An error of the body is a part of the test.
    let _ = axum::body::to_bytes(Body::new(answer.into_body()), 8_000_000).await;
    let mut lines = lines(&log);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.remove(0)
}

#[tokio::test]
async fn an_access_line_has_the_request_and_its_answer_but_no_query() {
    let service = start(|_| {}).await;
    let mut line = line_of(&service, "GET", "/orders/7?key=sentinel").await;
    let duration = line.as_object_mut().unwrap().remove("duration_ms").unwrap().as_f64().unwrap();
    assert!(duration > 0.0 && duration < 10_000.0, "{duration}");
    assert_eq!(
        line,
        json!({
            "message": "a request ended",
            "http.request.method": "GET",
            "http.route": "/orders/{id}",
            "url.path": "/orders/7",
            "url.scheme": "http",
            "http.response.status_code": 200,
            "network.protocol.version": "1.1",
            "client.address": "192.0.2.7",
        })
    );
}

#[tokio::test]
async fn a_failure_has_its_type_and_a_mistake_of_the_client_has_none() {
    let service = start(|_| {}).await;
    for (method, path, status, route, error_type) in [
        ("GET", "/nowhere", 404, Value::Null, Value::Null),
        ("GET", "/length", 405, json!("/length"), Value::Null),
        ("HEAD", "/pieces", 200, json!("/pieces"), Value::Null),
        ("GET", "/busy", 503, json!("/busy"), json!("503")),
        ("GET", "/panic", 500, json!("/panic"), json!("panic")),
        ("GET", "/broken", 200, json!("/broken"), json!("response_failed")),
        ("INVENTED", "/nowhere", 404, Value::Null, Value::Null),
    ] {
        let line = line_of(&service, method, path).await;
        assert_eq!(line["http.response.status_code"], status, "{line:#}");
        assert_eq!((&line["http.route"], &line["error.type"]), (&route, &error_type), "{line:#}");
        assert_eq!(line["http.request.method"], if method == "INVENTED" { "_OTHER" } else { method });
    }
    let path = format!("/{}", "ä".repeat(600));
    let line = line_of(&service, "GET", &path).await;
    assert_eq!(line["url.path"], path[..1023], "it is cut at a character");
}

#[tokio::test]
async fn a_line_is_written_when_the_response_has_ended_and_says_if_the_client_left_before() {
    let service = start(|_| {}).await;
    let (log, _guard) = CapturedLog::start();
    let get = |path: &str| Door::new(service.clone()).call(Request::get(path).body(Body::empty()).unwrap());

    let response = get("/pieces").await.unwrap();
    assert!(lines(&log).is_empty(), "its body has not ended");
    drop(response);
    let line = lines(&log).remove(0);
    assert_eq!((&line["http.response.status_code"], &line["error.type"]), (&json!(200), &json!("client_disconnected")));

    let mut body = pin!(get("/orders/7").await.unwrap().into_body());
    let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
    assert!(frame.is_some() && body.is_end_stream(), "a server does not ask again");
    drop(get("/orders/7").await.unwrap().into_body());
    let line = lines(&log).remove(0);
    assert_eq!(line["error.type"], "client_disconnected", "nobody has read this one");

    for (path, pieces, error_type) in [
        ("/pieces/measured", 3, Value::Null),
        ("/pieces/measured", 2, json!("client_disconnected")),
        ("/trailed", 1, Value::Null),
        ("/trailed", 0, json!("client_disconnected")),
    ] {
        let mut body = Box::pin(get(path).await.unwrap().into_body());
        for _ in 0..pieces {
            assert!(std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_some());
        }
        // A server asks for nothing after the bytes that were promised.
        drop(body);
        assert_eq!(lines(&log).remove(0)["error.type"], error_type, "{path}");
    }

    for (method, path) in [
        ("HEAD", "/nowhere"),
        ("HEAD", "/length"),
        ("HEAD", "/orders/7"),
        ("GET", "/no_content"),
        ("GET", "/not_modified"),
    ] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = Door::new(service.clone()).call(request).await.unwrap();
        assert!(response.body().is_end_stream(), "{path} has no content");
        drop(response);
        assert_eq!(lines(&log).remove(0)["error.type"], Value::Null, "{path}: a server asks for nothing");
    }

    let mut waiting = Box::pin(get("/never"));
    assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.poll_unpin(cx).is_pending())).await);
    assert!(lines(&log).is_empty());
    drop(waiting);
    let line = lines(&log).remove(0);
    assert_eq!((&line["http.route"], &line["error.type"]), (&json!("/never"), &json!("client_disconnected")));
    assert_eq!(line["http.response.status_code"], Value::Null, "there was no answer");
}

#[tokio::test]
async fn a_request_that_finds_no_place_is_logged_without_a_route() {
    let service = start(|config| config.server.max_in_flight = NonZeroU32::MIN).await;
    let (log, _guard) = CapturedLog::start();
    let held = Door::new(service.clone()).call(Request::get("/pieces").body(Body::empty()).unwrap()).await.unwrap();
    let (head, _) = get_with(&service, "/orders/7", &[]).await;
    assert_eq!(head.status, 503);
    assert!(head.headers.contains_key("x-request-id") && head.headers.contains_key("retry-after"));
    let line = lines(&log).remove(0);
    assert_eq!((&line["http.response.status_code"], &line["http.route"]), (&json!(503), &Value::Null));
    assert_eq!((&line["url.path"], &line["error.type"]), (&json!("/orders/7"), &json!("too_many_requests_in_flight")));

    let head = Request::head("/orders/7").body(Body::empty()).unwrap();
    let response = Door::new(service.clone()).call(head).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers()["content-length"] != "0", "that of the body of a GET");
    assert!(response.into_body().is_end_stream(), "a HEAD has none");
    drop(held);
}
