//! Clients that are slow, silent or many. Each time, a well-behaved client is served meanwhile, a rotation passes, and
//! the old generation ends.

mod http1;
mod http2;

use crate::{
    SERVICE,
    support::{launch_options::LaunchOptions, log_events::events_that_say},
};
use devstack::{DEFAULT_TIMEOUT, Launch, RunningService, Tenant, Validity, eventually, reqwest::StatusCode};
use http1::{BigPage, Socket};
use http2::Http2Client;
use serde_json::Value;
use std::time::{Duration, Instant};

/// The limits of the tests.
const REQUEST_TIMEOUT: &str = "2s";
const RESPONSE_TIMEOUT: &str = "4s";

/// The time after which nothing of an old generation is in use: both timeouts, a round of the watchdog, and room for a
/// busy machine.
const LIFE_OF_OLD_GENERATION: Duration = Duration::from_secs(12);

fn launch(tenant: &Tenant) -> Launch {
    SERVICE
        .launch(tenant)
        .without_polling()
        .env("APP_SERVER__REQUEST_TIMEOUT", REQUEST_TIMEOUT)
        .env("APP_SERVER__RESPONSE_TIMEOUT", RESPONSE_TIMEOUT)
}

/// Returns the number of connections of the public listener that ended for this reason.
async fn ended(running: &RunningService<'_>, reason: &str) -> f64 {
    running.metric(&format!("vestibule_connections_ended_total{{listener=\"public\",reason=\"{reason}\"}}")).await
}

async fn open(running: &RunningService<'_>) -> f64 {
    running.metric("vestibule_connections_open{listener=\"public\"}").await
}

/// Waits until this many connections ended for this reason.
async fn wait_for_ends(running: &RunningService<'_>, reason: &str, number: f64) {
    eventually("the end of the hostile connections", async || {
        let seen = ended(running, reason).await;
        if seen >= number { Ok(()) } else { Err(format!("{seen} ended: {reason}")) }
    })
    .await;
}

/// Sends requests as an ordinary client does, for some time: retries a 503. Returns the longest time to an answer.
async fn longest_answer(running: &RunningService<'_>, during: Duration) -> Duration {
    let (begin, mut longest) = (Instant::now(), Duration::ZERO);
    while begin.elapsed() < during {
        let asked = Instant::now();
        eventually("an answer", async || match running.get("/v1/notes?limit=1").await.status() {
            StatusCode::OK => Ok(()),
            other => Err(other),
        })
        .await;
        longest = longest.max(asked.elapsed());
    }
    println!("the longest answer to a well-behaved client: {longest:?}");
    longest
}

/// Checks that others are served soon after hostile clients took all places, and that these lose their connections.
async fn assert_the_places_come_back(running: &RunningService<'_>) {
    let longest = longest_answer(running, Duration::from_secs(3)).await;
    assert!(longest < Duration::from_secs(8), "{longest:?}");
    wait_for_ends(running, "stalled", 1.0).await;
}

/// Rotates the login under hostile clients, and checks that nothing of the old generation is in use when its time is over.
async fn assert_a_rotation_passes(running: &mut RunningService<'_>, tenant: &Tenant) {
    tenant.rotate("database").await.expect("a rotation");
    assert_eq!(running.reload().await["outcome"], "published");
    let published = Instant::now();
    let is_over = |status: &Value| status["draining"].as_array().is_some_and(Vec::is_empty);
    running.wait_until("the end of the old generation", is_over).await;
    assert!(published.elapsed() < LIFE_OF_OLD_GENERATION, "{:?}", published.elapsed());
}

#[tokio::test]
async fn clients_that_open_no_window_keep_nobody_out_and_end_in_time() {
    let tenant = SERVICE.migrated("zero_window").await;
    let mut running = RunningService::start(launch(&tenant), &tenant).await;
    let mut hostile = Vec::new();
    for _ in 0..6 {
        hostile.push(Http2Client::without_window(&running).await.request_many("/v1/notes", 100).await);
    }
    let longest = longest_answer(&running, Duration::from_secs(1)).await;
    assert!(longest < Duration::from_secs(2), "places are left: {longest:?}");
    assert_a_rotation_passes(&mut running, &tenant).await;
    wait_for_ends(&running, "stalled", 6.0).await;
    let line = running.process.wait_for_line(|line| line.contains(r#""error.type":"stalled""#), DEFAULT_TIMEOUT).await;
    assert!(line.contains("\"http.route\":\"/v1/notes\""), "{line}");
    drop(hostile);
}

#[tokio::test]
async fn clients_that_take_all_places_lose_them_within_seconds() {
    let tenant = SERVICE.migrated("all_places").await;
    let launch = launch(&tenant).env("APP_SERVER__RESPONSE_TIMEOUT", "1h");
    let running = RunningService::start(launch, &tenant).await;
    let mut hostile = Vec::new();
    for _ in 0..11 {
        hostile.push(Http2Client::without_window(&running).await.request_many("/v1/notes", 100).await);
    }
    assert_the_places_come_back(&running).await;
    drop(hostile);
}

#[tokio::test]
async fn clients_that_begin_bodies_and_send_none_lose_their_places_too() {
    let tenant = SERVICE.migrated("no_bodies").await;
    let launch = launch(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "1h");
    let running = RunningService::start(launch, &tenant).await;
    let mut hostile = Vec::new();
    for _ in 0..11 {
        hostile.push(Http2Client::ordinary(&running).await.begin_many("/v1/notes", 100).await);
    }
    assert_the_places_come_back(&running).await;
    drop(hostile);
}

#[tokio::test]
async fn clients_that_stop_reading_or_read_a_byte_a_second_end_in_time() {
    let tenant = SERVICE.migrated("slow_readers").await;
    let launch = launch(&tenant).env("APP_SERVICE__MAX_LENGTH", "100000").env("APP_SERVER__RESPONSE_TIMEOUT", "3s");
    let mut running = RunningService::start(launch, &tenant).await;
    let page = BigPage::create(&running).await;
    let stopped = page.begin(&running).await;
    let mut trickling = page.begin(&running).await;
    let trickle = tokio::spawn(async move { while trickling.read_one_byte_a_second().await {} });
    assert_a_rotation_passes(&mut running, &tenant).await;
    eventually("the end of both connections", async || {
        let ends = ended(&running, "response_timeout").await + ended(&running, "stalled").await;
        if ends >= 2.0 { Ok(()) } else { Err(ends) }
    })
    .await;
    drop(stopped);
    trickle.abort();
    assert_eq!(page.read_whole(&running).await, StatusCode::OK, "whoever reads gets it all");
}

#[tokio::test]
async fn silent_and_slow_connections_end_by_the_limit_that_they_meet() {
    let tenant = SERVICE.migrated("silent").await;
    let launch = launch(&tenant)
        .env("APP_CONNECTIONS__HANDSHAKE_TIMEOUT", "100ms")
        .env("APP_CONNECTIONS__HEAD_TIMEOUT", "500ms")
        .env("APP_CONNECTIONS__IDLE_TIMEOUT", "1s");
    let running = RunningService::start(launch, &tenant).await;
    let _silent = Socket::connect(&running).await;
    let _half_a_head = Socket::connect(&running).await.send("GET /v1/notes HTTP/1.1\r\nhost: a\r\nx-a: ").await;
    wait_for_ends(&running, "head_timeout", 2.0).await;

    let mut idle = Socket::connect(&running).await.send("GET /v1/notes HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(idle.head().await.starts_with("HTTP/1.1 200"));
    let half_a_head = idle.send("GET /v1/notes HTTP/1.1\r\nhost: a\r\nx-a: ").await;
    wait_for_ends(&running, "idle", 1.0).await;
    drop(half_a_head);

    let _idle = Http2Client::ordinary(&running).await.request_one("/v1/notes").await;
    wait_for_ends(&running, "idle", 2.0).await;
    assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_unfinished_tls_handshake_ends() {
    let tenant = SERVICE.migrated("handshakes").await;
    let launch = launch(&tenant).env("APP_CONNECTIONS__HANDSHAKE_TIMEOUT", "500ms");
    let identity = tenant.authority().local(Validity::days(90));
    tenant.put_identity("server_tls", &identity).await.expect("a certificate");
    let running = RunningService::start_tls(launch, &tenant).await;
    let _silent = Socket::connect(&running).await;
    let _half_a_hello = Socket::connect(&running).await.send("\x16\x03\x01\x02\x00\x01").await;
    wait_for_ends(&running, "handshake_timeout", 2.0).await;
    assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
    assert_eq!(running.metric("vestibule_tls_handshakes_failed_total{listener=\"public\"}").await, 2.0);
}

#[tokio::test]
async fn a_flood_of_connections_leaves_room_for_others_for_probes_and_for_a_reload() {
    let tenant = SERVICE.migrated("flood").await;
    let few_files = ["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""];
    let mut running = RunningService::start(launch(&tenant).started_by(few_files), &tenant).await;
    let limit = running.metric("vestibule_connections_limit{listener=\"public\"}").await;
    assert!(limit > 50.0 && limit < 200.0, "{limit}");
    let mut flood = Vec::new();
    for _ in 0..400 {
        flood.push(Socket::connect(&running).await);
    }
    let (code, _) = running.admin("/livez").await;
    assert_eq!(code, StatusCode::OK);
    let longest = longest_answer(&running, Duration::from_secs(2)).await;
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    assert_a_rotation_passes(&mut running, &tenant).await;
    assert!(open(&running).await <= limit);
    let complaints = events_that_say(&running.process, "no more connections are accepted until one ends").len();
    assert!((1..=2).contains(&complaints), "{complaints} lines");
    drop(flood);
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let tenant = SERVICE.migrated("heads").await;
    let running = RunningService::start(launch(&tenant), &tenant).await;
    let many = "x-a: b\r\n".repeat(101);
    let large = format!("x-a: {}\r\n", "b".repeat(100 * 1024));
    for headers in [many, large] {
        let head = format!("GET /v1/notes HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        let answer = Socket::connect(&running).await.send(&head).await.head().await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    wait_for_ends(&running, "head_too_large", 2.0).await;
    let answer = Socket::connect(&running).await.send("GET / HTTP/9.9\r\n\r\n").await.head().await;
    assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 505"), "{answer}");
    wait_for_ends(&running, "malformed", 1.0).await;
    let status = Http2Client::ordinary(&running).await.request_with_header("x-a", &"b".repeat(20 * 1024)).await;
    assert_eq!(status, Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
}

#[tokio::test]
async fn floods_of_resets_and_continuations_end_their_connection_only() {
    let tenant = SERVICE.migrated("http2_floods").await;
    let running = RunningService::start(launch(&tenant), &tenant).await;
    let resets = http2::flood_of_resets(&running, 20_000).await;
    assert!(resets < 20_000, "the connection ended after {resets}");
    let continuations = http2::flood_of_continuations(&running, 20_000).await;
    assert!(continuations < 20_000, "the connection ended after {continuations}");
    assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
    eventually("the end of the hostile connections", async || {
        let ends = ended(&running, "protocol_error").await + ended(&running, "reset").await;
        if ends >= 2.0 { Ok(()) } else { Err(ends) }
    })
    .await;
}

#[tokio::test]
async fn a_connection_ends_at_its_maximum_age_and_the_client_goes_on_with_another() {
    let tenant = SERVICE.migrated("ages").await;
    let running = RunningService::start(launch(&tenant).env("APP_CONNECTIONS__MAX_AGE", "1s"), &tenant).await;
    eventually("connections that ended for their age", async || {
        assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
        if ended(&running, "max_age").await >= 2.0 { Ok(()) } else { Err("none") }
    })
    .await;
}
