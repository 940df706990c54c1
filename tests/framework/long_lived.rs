//! Responses that may last, through the example `events`.

use crate::{
    SERVICE,
    support::{
        examples::{CONFIG_OF_EXAMPLES, example},
        time_waits::stays,
    },
};
use devstack::{DEFAULT_TIMEOUT, Launch, RunningService, Signal, Tenant, eventually, random_key, reqwest::Response};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    time::timeout,
};

async fn launch(tenant: &Tenant) -> Launch {
    tenant.put("first", &random_key()).await.expect("a key");
    Launch::with_tenant(example("events"), tenant)
        .env("APP_CONFIG_DIR", CONFIG_OF_EXAMPLES)
        .env("APP_SERVER__REQUEST_TIMEOUT", "1s")
        .env("APP_SERVER__RESPONSE_TIMEOUT", "1s")
}

/// Returns the next event of a stream. `None` at its end.
async fn next(stream: &mut Response) -> Option<String> {
    let chunk = timeout(DEFAULT_TIMEOUT, stream.chunk()).await.expect("in time").expect("the stream goes on")?;
    Some(String::from_utf8(chunk.to_vec()).expect("text"))
}

/// Returns the events of a stream until it ends, without the ticks.
async fn rest(stream: &mut Response) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(event) = next(stream).await {
        if event != "data: tick\n\n" {
            events.push(event);
        }
    }
    events
}

#[tokio::test]
async fn events_outlive_the_timeouts_and_hear_of_a_replacement_and_of_a_stop() {
    let tenant = SERVICE.tenant("events").await;
    let mut running = RunningService::start(launch(&tenant).await, &tenant).await;
    let mut stream = running.get("/events").await;
    let ticks = async || next(&mut stream).await.as_deref() == Some("data: tick\n\n");
    stays("the stream of events", Duration::from_secs(4), ticks).await;

    tenant.put("first", &random_key()).await.expect("a new key");
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(rest(&mut stream).await, ["data: replaced\n\n"]);
    running.wait_until("nothing drains", |status| status["draining"] == json!([])).await;

    let mut stream = running.get("/events").await;
    assert_eq!(next(&mut stream).await.as_deref(), Some("data: tick\n\n"));
    running.process.signal(Signal::TERM);
    assert_eq!(rest(&mut stream).await, ["data: stopping\n\n"]);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
}

/// The metric of the open connections.
const OPEN: &str = "vestibule_connections_open{listener=\"public\"}";

/// Opens a connection that goes on with a protocol of its own. Returns its lines.
async fn upgrade(running: &RunningService<'_>) -> Lines<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(&running.at.public).await.expect("it listens");
    let head = "GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut lines = BufReader::new(stream).lines();
    let mut line = async || timeout(DEFAULT_TIMEOUT, lines.next_line()).await.expect("in time").expect("it goes on");
    assert_eq!(line().await.as_deref(), Some("HTTP/1.1 101 Switching Protocols"));
    while line().await.as_deref() != Some("") {}
    lines
}

#[tokio::test]
async fn an_upgraded_connection_is_named_while_it_lasts_and_hears_the_same() {
    let tenant = SERVICE.tenant("upgraded").await;
    let mut running = RunningService::start(launch(&tenant).await, &tenant).await;
    let mut lines = upgrade(&running).await;
    let mut line = async || timeout(DEFAULT_TIMEOUT, lines.next_line()).await.expect("in time").expect("it goes on");

    tenant.put("first", &random_key()).await.expect("a new key");
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(line().await.as_deref(), Some("replaced"));
    let status = running.status().await;
    assert_eq!(status["draining"][0]["long_lived"], json!({ "/upgrade": 1 }), "{status}");
    assert_eq!(running.metric(OPEN).await, 1.0, "it keeps its place");
    running.process.signal(Signal::TERM);
    assert_eq!(line().await.as_deref(), Some("stopping"));
    assert_eq!(line().await, None);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
}

#[tokio::test]
async fn an_upgraded_connection_gives_its_place_back_when_its_client_leaves() {
    let tenant = SERVICE.tenant("upgraded_leaves").await;
    let running = RunningService::start(launch(&tenant).await, &tenant).await;
    let lines = upgrade(&running).await;
    assert_eq!(running.metric(OPEN).await, 1.0);
    drop(lines);
    eventually("the end of the connection", async || running.metric(OPEN).await == 0.0).await;
}
