//! Clients that are slow, silent or many. Each time, a well-behaved client is served meanwhile, a rotation passes, and
//! the old generation ends.

mod http1;
mod http2;
mod phases;

use crate::{
    SERVICE,
    support::{
        log_events::events_that_say,
        process::{open_files, resident_kilobytes},
        tls_client::TlsClient,
    },
};
use devstack::{
    DEFAULT_TIMEOUT, Launch, RunningService, Tenant, Validity, eventually,
    reqwest::{Client, StatusCode},
};
use http1::{BigPage, Socket};
use http2::Http2Client;
use phases::Phase;
use serde_json::Value;
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// The limits of the tests.
const REQUEST_TIMEOUT: &str = "2s";
const RESPONSE_TIMEOUT: &str = "4s";

/// The time after which nothing of an old generation is in use: both timeouts, a round of the watchdog, and room for a
/// busy machine.
const LIFE_OF_OLD_GENERATION: Duration = Duration::from_secs(20);

fn launch(tenant: &Tenant) -> Launch {
    SERVICE
        .launch(tenant)
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

/// Checks that others are served soon after hostile clients took all places, and that these lose their streams. A connection
/// ends too, unless it has others when places are no longer short.
async fn assert_the_places_come_back(running: &mut RunningService<'_>) {
    let longest = longest_answer(running, Duration::from_secs(3)).await;
    assert!(longest < Duration::from_secs(20), "{longest:?}");
    let line = running.process.wait_for_line(|line| line.contains(r#""error.type":"stalled""#), DEFAULT_TIMEOUT).await;
    assert!(line.contains("\"http.route\":\"/v1/notes\""), "{line}");
}

/// Rotates the login under hostile clients, and checks that nothing of the old generation is in use when its time is over.
async fn assert_a_rotation_passes(running: &mut RunningService<'_>, tenant: &Tenant) {
    let generation = running.status().await["generation"].as_u64();
    tenant.rotate("database").await.expect("a rotation");
    // A rejected login may have led to a reload before this one.
    assert_ne!(running.reload().await["outcome"], "kept");
    assert!(running.status().await["generation"].as_u64() > generation);
    let published = Instant::now();
    let is_over = |status: &Value| status["draining"].as_array().is_some_and(Vec::is_empty);
    running.wait_until("the end of the old generation", is_over).await;
    assert!(published.elapsed() < LIFE_OF_OLD_GENERATION, "{:?}", published.elapsed());
}

/// The memory that hostile clients may take, and that they may leave behind.
const MOST_KILOBYTES: u64 = 128 * 1024;
const LEFT_KILOBYTES: u64 = 32 * 1024;

/// `database.max_connections`.
const MAX_DATABASE_CONNECTIONS: usize = 10;

/// The open files that hostile clients may leave behind: the pool has all its connections, and the manager's client another.
const LEFT_FILES: usize = MAX_DATABASE_CONNECTIONS + 2;

/// The longest time of an answer to a well-behaved client.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);

/// The shortest time of a phase.
const SHORTEST_PHASE: Duration = Duration::from_secs(2);

/// The largest number of connections.
const MAX_OPEN: usize = 150;

fn launch_for_phases(tenant: &Tenant) -> Launch {
    launch(tenant)
        .env("APP_SERVICE__MAX_LENGTH", "100000")
        // The C library gives large pieces back to the kernel as soon as they are freed. Otherwise it may keep them, and the
        // memory says little about what the service holds.
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .env("APP_SERVER__RESPONSE_TIMEOUT", "2s")
        .env("APP_CONNECTIONS__MAX_OPEN", MAX_OPEN.to_string())
        .env("APP_CONNECTIONS__HANDSHAKE_TIMEOUT", "500ms")
        .env("APP_CONNECTIONS__HEAD_TIMEOUT", "1s")
        .env("APP_CONNECTIONS__IDLE_TIMEOUT", "3s")
}

/// The memory and the descriptors of a process.
#[derive(Clone, Copy, Debug)]
struct Held {
    files: usize,
    kilobytes: u64,
}

impl Held {
    fn by(pid: u32) -> Self {
        Self { files: open_files(pid), kilobytes: resident_kilobytes(pid) }
    }

    fn most(self, other: Self) -> Self {
        Self { files: self.files.max(other.files), kilobytes: self.kilobytes.max(other.kilobytes) }
    }

    /// Returns `true` if this is at most so much more than `before`.
    fn is_within(self, before: Self, files: usize, kilobytes: u64) -> bool {
        self.files <= before.files + files && self.kilobytes <= before.kilobytes + kilobytes
    }
}

/// A client that opens a connection for each request.
struct WellBehavedClient {
    client: Client,
    url: String,
    /// The process of the service.
    pid: u32,
}

impl WellBehavedClient {
    fn of(running: &RunningService<'_>, tenant: &Tenant) -> Self {
        let trusted = tenant.authority().trusted().pool_max_idle_per_host(0).timeout(LONGEST_ANSWER);
        let (url, pid) = (running.url("/v1/notes?limit=1"), running.process.pid());
        Self { client: trusted.build().expect("a client"), url, pid }
    }

    /// Sends one request after the other until `is_over` says so. Returns the times until each was served, the longest
    /// last, and the most that the service held.
    async fn be_served(&self, is_over: &Cell<bool>) -> (Vec<Duration>, Held) {
        let (begin, mut times, mut most) = (Instant::now(), Vec::new(), Held::by(self.pid));
        while !is_over.get() || begin.elapsed() < SHORTEST_PHASE {
            let asked = Instant::now();
            // An ordinary client repeats a request that got a 503.
            // And one whose connection was cut: on a busy machine it may be as slow as the hostile clients.
            loop {
                let seen = self.client.get(&self.url).send().await.map(|answer| answer.status());
                if matches!(seen, Ok(StatusCode::OK)) {
                    break;
                }
                assert!(asked.elapsed() < LONGEST_ANSWER, "last seen: {seen:?}");
            }
            times.push(asked.elapsed());
            most = most.most(Held::by(self.pid));
        }
        times.sort();
        (times, most)
    }
}

/// Runs phases, one after the other. In each, a well-behaved client is served, a rotation passes, and the service ends
/// hostile connections. Memory and descriptors are bounded, and as before in the end.
async fn assert_phases_pass(
    running: &mut RunningService<'_>,
    tenant: &Tenant,
    tls: Option<&TlsClient>,
    phases: &[Phase],
) {
    let (client, pid) = (WellBehavedClient::of(running, tenant), running.process.pid());
    let before = Held::by(pid);
    for phase in phases {
        let began = Instant::now();
        let endings = ends(running, phase.ends).await;
        let hostile = phase.start(&running.at.public, tls);
        let is_over = Cell::new(false);
        let pass = async {
            assert_a_rotation_passes(running, tenant).await;
            eventually("the end of hostile connections", async || {
                let seen = ends(running, phase.ends).await;
                if seen >= endings + 2.0 { Ok(()) } else { Err(seen) }
            })
            .await;
            is_over.set(true);
        };
        let ((times, most), ()) = tokio::join!(client.be_served(&is_over), pass);
        drop(hostile);
        let p99 = times[times.len() * 99 / 100];
        println!("{}: p99 {p99:?} of {} in {:?}; {most:?} after {before:?}", phase.name, times.len(), began.elapsed());
        assert!(most.is_within(before, MAX_OPEN + LEFT_FILES, MOST_KILOBYTES), "{most:?} after {before:?}");
        eventually("memory and descriptors as before", async || {
            let left = Held::by(pid);
            if left.is_within(before, LEFT_FILES, LEFT_KILOBYTES) {
                Ok(())
            } else {
                Err(format!("{left:?} after {before:?}"))
            }
        })
        .await;
    }
}

/// Returns the number of connections of the public listener that ended for one of these reasons.
async fn ends(running: &RunningService<'_>, reasons: &[&str]) -> f64 {
    let mut sum = 0.0;
    for reason in reasons {
        sum += ended(running, reason).await;
    }
    sum
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_phase_of_an_attack_others_are_served_and_a_rotation_passes() {
    let tenant = SERVICE.migrated("phases").await;
    let mut running = RunningService::start(launch_for_phases(&tenant), &tenant).await;
    assert_phases_pass(&mut running, &tenant, None, &phases::PLAIN).await;
    let page = BigPage::create(&running).await;
    assert_phases_pass(&mut running, &tenant, None, &phases::UNREAD).await;
    assert_eq!(page.read_whole(&running).await, StatusCode::OK, "whoever reads gets it all");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_phase_of_an_attack_on_tls_others_are_served_and_a_rotation_passes() {
    let tenant = SERVICE.migrated("tls_phases").await;
    let identity = tenant.authority().local(Validity::days(90));
    tenant.put_identity("server_tls", &identity).await.expect("a certificate");
    let mut running = RunningService::start_tls(launch_for_phases(&tenant), &tenant).await;
    assert_phases_pass(&mut running, &tenant, None, &phases::HANDSHAKE).await;
    assert!(running.metric("vestibule_tls_handshakes_failed_total{listener=\"public\"}").await > 0.0);
    let client = TlsClient::new(tenant.authority());
    assert_phases_pass(&mut running, &tenant, Some(&client), &[phases::ZERO_WINDOW]).await;
    let page = BigPage::create(&running).await;
    assert_phases_pass(&mut running, &tenant, Some(&client), &phases::UNREAD).await;
    assert_eq!(page.read_whole(&running).await, StatusCode::OK, "whoever reads gets it all");
}

#[tokio::test]
async fn clients_that_take_all_places_lose_them_within_seconds() {
    let tenant = SERVICE.migrated("all_places").await;
    let launch = launch(&tenant).env("APP_SERVER__RESPONSE_TIMEOUT", "1h");
    let mut running = RunningService::start(launch, &tenant).await;
    let mut hostile = Vec::new();
    for _ in 0..11 {
        hostile.push(Http2Client::without_window(&running).await.request_many("/v1/notes", 100).await);
    }
    assert_the_places_come_back(&mut running).await;
    drop(hostile);
}

#[tokio::test]
async fn clients_that_begin_bodies_and_send_none_lose_their_places_too() {
    let tenant = SERVICE.migrated("no_bodies").await;
    let launch = launch(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "1h");
    let mut running = RunningService::start(launch, &tenant).await;
    let mut hostile = Vec::new();
    for _ in 0..11 {
        hostile.push(Http2Client::ordinary(&running).await.begin_many("/v1/notes", 100).await);
    }
    assert_the_places_come_back(&mut running).await;
    drop(hostile);
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
    assert!(longest < Duration::from_secs(20), "{longest:?}");
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
async fn a_connection_ends_at_its_maximum_age_and_the_client_goes_on_with_another() {
    let tenant = SERVICE.migrated("ages").await;
    let running = RunningService::start(launch(&tenant).env("APP_CONNECTIONS__MAX_AGE", "1s"), &tenant).await;
    eventually("connections that ended for their age", async || {
        assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
        if ended(&running, "max_age").await >= 2.0 { Ok(()) } else { Err("none") }
    })
    .await;
}
