//! What clients are told when they cannot be served.

use crate::{DEFAULT_TIMEOUT, Notes, RunningService, migrated, service};
use devstack::{
    problem,
    reqwest::{Method, StatusCode},
};

#[tokio::test]
async fn a_database_that_goes_away_is_503_and_heals() {
    let tenant = migrated("goes_away").await;
    let running = RunningService::start(service(&tenant).env("APP_DATABASE__ACQUIRE_TIMEOUT", "3s"), &tenant).await;
    let note = running.create("a note").await;
    let mut admin = tenant.admin().await.unwrap();
    let allow = async |admin: &mut sqlx::PgConnection, allowed: bool| {
        let statement = format!("ALTER ROLE {} CONNECTION LIMIT {}", tenant.app_role(), if allowed { -1 } else { 0 });
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(admin).await.unwrap();
    };
    allow(&mut admin, false).await;
    tenant.kill_connections(&tenant.app_role()).await.unwrap();
    // Only a connection that sat idle for half a second is checked before it is used.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let away = running.get(&note).await;
    assert_eq!(away.headers()["retry-after"], "1");
    problem(away, 503).await;
    assert_eq!(running.admin("/readyz").await.0, StatusCode::OK, "taking the fleet out would cure nothing");
    assert_eq!(running.admin("/livez").await.0, StatusCode::OK);
    allow(&mut admin, true).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn too_many_requests_in_flight_are_told_to_come_back() {
    let tenant = migrated("in_flight").await;
    let running = RunningService::start(service(&tenant).env("APP_SERVER__MAX_IN_FLIGHT", "1"), &tenant).await;
    let mut go = None;
    let start = std::time::Instant::now();
    // The slow one is told to come back itself if it comes while another is in flight.
    let slow = loop {
        let (sender, wait) = tokio::sync::oneshot::channel::<()>();
        let stream = futures_util::stream::once(async move {
            let _ = wait.await;
            Ok::<_, std::io::Error>("{\"body\": \"x\"}")
        });
        let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
        let slow = tokio::spawn(post.body(devstack::reqwest::Body::wrap_stream(stream)).send());
        go.replace(sender);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        if !slow.is_finished() && running.get("/v1/notes").await.status() == StatusCode::SERVICE_UNAVAILABLE {
            break slow;
        }
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "the first was not in flight");
    };
    let full = running.get("/v1/notes").await;
    assert_eq!(full.headers()["retry-after"], "1");
    assert!(problem(full, 503).await.contains("in flight"));
    go.expect("it was sent").send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::CREATED);
    assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_503() {
    let tenant = migrated("too_long").await;
    let running = RunningService::start(service(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "300ms"), &tenant).await;
    let never = futures_util::stream::pending::<Result<&str, std::io::Error>>();
    let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let answer = post.body(devstack::reqwest::Body::wrap_stream(never)).send().await.unwrap();
    assert!(problem(answer, 503).await.contains("too long"));
}
