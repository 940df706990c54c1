//! Stopping: what is in flight is finished, and a second signal does not wait.

use crate::{DEFAULT_TIMEOUT, Notes, RunningService, migrated, service};
use devstack::{Signal, reqwest::StatusCode};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// A request whose body is still on its way.
fn half_a_request(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let head = "POST /v1/notes HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n";
    stream.write_all(format!("{head}{{\"body\": ").as_bytes()).expect("it reads");
    stream.set_read_timeout(Some(DEFAULT_TIMEOUT)).expect("a timeout");
    stream
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_ends_with_0() {
    let tenant = migrated("stop").await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = RunningService::start(service(&tenant), &tenant).await;
        running.create("a note").await;
        let mut stream = half_a_request(&running.at.public);
        tokio::time::sleep(Duration::from_millis(200)).await;
        running.process.signal(signal);
        running.process.wait_for_line(|line| line.contains("\"stopping\""), DEFAULT_TIMEOUT).await;
        let (code, ready) = running.admin("/readyz").await;
        assert_eq!((code, ready["status"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("unready")));
        assert_eq!(running.admin("/livez").await.0, StatusCode::OK);
        let start = Instant::now();
        while TcpStream::connect(&running.at.public).is_ok() {
            assert!(start.elapsed() < DEFAULT_TIMEOUT, "it still accepts");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stream.write_all(b"\"late\"}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
        assert_eq!(tenant.connections(&tenant.app_role()).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_stopping_service_lingers_for_load_balancers() {
    let tenant = migrated("linger").await;
    let mut running = RunningService::start(service(&tenant).env("APP_SERVER__LINGER", "4s"), &tenant).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    running.process.wait_for_line(|line| line.contains("\"stopping\""), DEFAULT_TIMEOUT).await;
    assert_eq!(running.admin("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    running.create("it still accepts").await;
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() >= Duration::from_secs(4));
}

#[tokio::test]
async fn a_stop_waits_no_longer_than_drain() {
    let tenant = migrated("drain").await;
    let mut running = RunningService::start(service(&tenant).env("APP_SERVER__DRAIN", "1s"), &tenant).await;
    let _stream = half_a_request(&running.at.public);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let tenant = migrated("second").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    let _stream = half_a_request(&running.at.public);
    tokio::time::sleep(Duration::from_millis(200)).await;
    running.process.signal(Signal::TERM);
    running.process.wait_for_line(|line| line.contains("\"stopping\""), DEFAULT_TIMEOUT).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(128 + 15));
    assert!(start.elapsed() < Duration::from_secs(5), "drain is 25 s");
}
