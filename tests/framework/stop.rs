//! A stop: it finishes the requests in flight, and a second signal ends it at once.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        database::wait_until_connections_are,
        leased::{Leased, use_next_user, user_of},
        slow_request::SlowRequest,
    },
};
use devstack::{DEFAULT_TIMEOUT, RunningService, Signal, TestProcess, eventually, reqwest::StatusCode};
use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

/// Waits until the service logs that it is stopping.
async fn wait_for_stop(process: &mut TestProcess) {
    process.wait_for_line(|line| line.contains("\"stopping\""), DEFAULT_TIMEOUT).await;
}

#[tokio::test]
async fn a_stop_finishes_the_requests_in_flight_and_ends_with_0() {
    let tenant = SERVICE.migrated("stop").await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = SERVICE.start(&tenant).await;
        running.create_note("a note").await;
        let slow = SlowRequest::start(&running).await;
        running.process.signal(signal);
        wait_for_stop(&mut running.process).await;
        let (code, ready) = running.admin("/readyz").await;
        assert_eq!((code, ready["status"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("unready")));
        assert_eq!(running.admin("/livez").await.0, StatusCode::OK);
        eventually("a closed port", async || TcpStream::connect(&running.at.public).is_err()).await;
        let answer = slow.finish_and_wait_for_close().await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
        wait_until_connections_are(&tenant, 0).await;
    }
}

#[tokio::test]
async fn a_stopping_service_lingers_until_load_balancers_have_noticed() {
    let tenant = SERVICE.migrated("linger").await;
    let mut running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVER__LINGER", "4s"), &tenant).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    wait_for_stop(&mut running.process).await;
    assert_eq!(running.admin("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    running.create_note("the service still accepts requests").await;
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() >= Duration::from_secs(4));
}

#[tokio::test]
async fn a_login_that_is_rejected_while_a_stopping_service_lingers_is_replaced() {
    let leased = Leased::new("linger_lease", "1h", "1h").await;
    let launch = leased.launch().env("APP_SERVER__LINGER", "10m");
    let mut running = RunningService::start(launch, &leased.tenant).await;
    let first = user_of(&running).await;
    running.process.signal(Signal::TERM);
    wait_for_stop(&mut running.process).await;
    leased.revoke_all().await;
    use_next_user(&running, &first).await;
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(128 + 15));
}

#[tokio::test]
async fn a_stop_waits_for_requests_no_longer_than_drain() {
    let tenant = SERVICE.migrated("drain").await;
    let mut running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVER__DRAIN", "1s"), &tenant).await;
    let _slow = SlowRequest::start(&running).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let tenant = SERVICE.migrated("second").await;
    let mut running = SERVICE.start(&tenant).await;
    let _slow = SlowRequest::start(&running).await;
    running.process.signal(Signal::TERM);
    wait_for_stop(&mut running.process).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(128 + 15));
    assert!(start.elapsed() < Duration::from_secs(15), "drain is 25 s");
}
