//! The answers to clients that cannot be served.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{database::cut_connections, slow_request::SlowRequest},
};
use devstack::{
    RunningService, eventually, problem,
    reqwest::{Body, StatusCode},
};
use futures_util::stream;
use std::io;

#[tokio::test]
async fn requests_get_503_only_while_the_database_is_away() {
    let tenant = SERVICE.migrated("goes_away").await;
    let running =
        RunningService::start(SERVICE.launch(&tenant).env("APP_DATABASE__ACQUIRE_TIMEOUT", "3s"), &tenant).await;
    let note = running.create_note("a note").await;
    tenant.limit_connections(&tenant.app_role(), 0).await.unwrap();
    cut_connections(&tenant).await;
    let away = running.get(&note).await;
    let retry_after: u64 = away.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&retry_after), "the pool tries every 2 s at most, and not every {retry_after} s");
    problem(away, 503).await;
    assert_eq!(
        running.admin("/readyz").await.0,
        StatusCode::OK,
        "if all replicas were unready, nobody would be served"
    );
    assert_eq!(running.admin("/livez").await.0, StatusCode::OK);
    tenant.limit_connections(&tenant.app_role(), -1).await.unwrap();
    // Requests fail at once until the pool tries again.
    let is_served = async || running.get(&note).await.status() == StatusCode::OK;
    eventually("an answer after the next log-in", is_served).await;
}

#[tokio::test]
async fn too_many_requests_in_flight_get_503_and_a_retry_after() {
    let tenant = SERVICE.migrated("in_flight").await;
    let running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVER__MAX_IN_FLIGHT", "1"), &tenant).await;
    let slow = SlowRequest::start(&running).await;
    let full = running.get("/v1/notes").await;
    assert!(["1", "2", "3"].contains(&full.headers()["retry-after"].to_str().unwrap()));
    assert!(problem(full, 503).await.contains("in flight"));
    assert_eq!(slow.finish().await, StatusCode::CREATED);
    assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
    let (_, _, page) = running.page("/").await;
    assert!(page.contains("in the last hour, requests: 3, errors: 1"), "{page}");
}

#[tokio::test]
async fn a_request_whose_body_does_not_arrive_in_time_gets_408() {
    let tenant = SERVICE.migrated("too_long").await;
    let running =
        RunningService::start(SERVICE.launch(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "300ms"), &tenant).await;
    let endless_body = Body::wrap_stream(stream::pending::<io::Result<&str>>());
    let answer = running.post_json("/v1/notes", endless_body).await;
    assert!(problem(answer, 408).await.contains("did not arrive in time"));
}
