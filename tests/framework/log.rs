//! The log, if nobody reads it, if it cannot be written, and if it would contain a secret.

use crate::{
    SERVICE,
    support::{log_events::events_that_say, time_waits::let_time_pass},
};
use devstack::{DEFAULT_TIMEOUT, RunningService, Signal, eventually, free_port, reqwest, reqwest::StatusCode};
use futures_util::future::join_all;
use std::time::{Duration, Instant};

/// The longest time in which a stop may end the process: its requests have ended, and the log has a second.
const STOP: Duration = Duration::from_secs(10);

/// The series of lines that were dropped for this reason.
fn dropped(reason: &str) -> String {
    format!("vestibule_log_lines_dropped_total{{reason=\"{reason}\"}}")
}

/// Starts a service that logs many lines per request.
async fn start_talkative(tenant: &devstack::Tenant) -> RunningService<'_> {
    let launch = SERVICE.launch(tenant).env("APP_TELEMETRY__FILTER", "trace");
    RunningService::start(launch, tenant).await
}

/// Makes requests until a series of `/metrics` is not 0. Each of them must be answered.
async fn make_requests_until(running: &RunningService<'_>, series: &str) {
    eventually(series, async || {
        let answers = join_all((0..50).map(|_| running.get("/v1/notes"))).await;
        assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK), "a request failed");
        let value = running.metric(series).await;
        if value > 0.0 { Ok(()) } else { Err(value) }
    })
    .await;
}

/// Sends SIGTERM, and waits for the end of the process.
async fn stop(running: &mut RunningService<'_>) {
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    eventually("the end of the process", async || !running.process.is_running()).await;
    assert!(start.elapsed() < STOP, "{:?}", start.elapsed());
}

#[tokio::test]
async fn requests_reloads_and_a_stop_do_not_wait_for_a_reader_of_the_log() {
    let tenant = SERVICE.migrated("log_unread").await;
    let mut running = start_talkative(&tenant).await;
    running.process.pause_stdout();
    make_requests_until(&running, &dropped("full")).await;
    assert_eq!(running.admin("/livez").await.0, StatusCode::OK);
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert!(events_that_say(&running.process, "lines of the log were dropped").is_empty());

    running.process.resume_stdout();
    let said = eventually("the number of dropped lines", async || {
        let mut said = events_that_say(&running.process, "lines of the log were dropped");
        said.pop().ok_or_else(|| running.process.events().len())
    })
    .await;
    let count = said["fields"]["log.full"].as_f64().expect("a number");
    assert!(count > 0.0 && count <= running.metric(&dropped("full")).await, "{said}");
    assert_eq!(said["fields"]["log.unwritable"], 0);

    running.process.pause_stdout();
    let before = running.metric(&dropped("full")).await;
    eventually("a full buffer", async || {
        join_all((0..50).map(|_| running.get("/v1/notes"))).await;
        running.metric(&dropped("full")).await > before
    })
    .await;
    stop(&mut running).await;
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
}

#[tokio::test]
async fn a_log_whose_reader_is_gone_stops_nothing() {
    let tenant = SERVICE.migrated("log_closed").await;
    let mut running = start_talkative(&tenant).await;
    running.process.close_stdout();
    make_requests_until(&running, &dropped("unwritable")).await;
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!(running.metric(&dropped("full")).await, 0.0);
    stop(&mut running).await;
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_disk_that_is_full_stops_nothing() {
    let tenant = SERVICE.migrated("log_disk").await;
    let [public, admin] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let launch = SERVICE
        .launch(&tenant)
        .env("APP_SERVER__LISTEN", &public)
        .env("APP_ADMIN__LISTEN", &admin)
        .started_by(["sh", "-c", "exec \"$@\" > /dev/full", "sh"]);
    let mut process = launch.start();
    let get = async |url: String| Some(reqwest::get(url).await.ok()?.error_for_status().ok()?.text().await.ok()?);
    let series = dropped("unwritable");
    eventually("lines that could not be written", async || {
        let page = get(format!("http://{admin}/metrics")).await.unwrap_or_default();
        page.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse::<f64>().ok()) > Some(0.0)
    })
    .await;
    assert!(get(format!("http://{public}/v1/notes")).await.is_some());
    process.signal(Signal::TERM);
    let exited = process.exited(STOP).await;
    assert_eq!((exited.code, exited.stdout.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_process_that_a_signal_ends_writes_its_last_lines_first() {
    let tenant = SERVICE.migrated("log_last").await;
    for (signal, code) in [(Signal::INT, Some(128 + 2)), (Signal::ABORT, None)] {
        let launch = SERVICE.launch(&tenant).env("APP_TELEMETRY__FILTER", "trace").env("APP_SERVER__LINGER", "60s");
        let mut running = RunningService::start(launch, &tenant).await;
        running.process.pause_stdout();
        // The pipe is full, so the last lines wait in the process.
        join_all((0..200).map(|_| running.get("/v1/notes"))).await;
        running.process.signal(Signal::TERM);
        eventually("a stop", async || running.admin("/readyz").await.0 == StatusCode::SERVICE_UNAVAILABLE).await;
        running.process.signal(signal);
        let_time_pass("a process that does not wait would be gone", Duration::from_millis(50)).await;
        running.process.resume_stdout();
        let exited = running.process.exited(DEFAULT_TIMEOUT).await;
        assert_eq!((exited.code, exited.signal), (code, if code.is_some() { None } else { Some(6) }));
        assert!(exited.stdout.contains("\"stopping\""), "{signal:?}");
    }
}

#[tokio::test]
async fn the_last_line_of_a_stop_is_in_the_log() {
    let tenant = SERVICE.migrated("log_stop").await;
    let mut running = SERVICE.start(&tenant).await;
    running.process.signal(Signal::TERM);
    let exited = running.process.exited(DEFAULT_TIMEOUT).await;
    assert!(exited.stdout.lines().last().is_some_and(|line| line.contains("\"stopped\"")), "{}", exited.stdout);
}

/// A credential that the service would log: the key of the webhook is a word that stands in the event of each reload.
#[tokio::test]
async fn a_line_that_contains_a_live_secret_is_withheld() {
    let tenant = SERVICE.migrated("log_secret").await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    let launch = SERVICE.launch(&tenant).env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    let mut running = RunningService::start(launch, &tenant).await;
    assert_eq!(running.metric("vestibule_log_lines_withheld_total").await, 0.0);
    tenant.put("webhook", "{\"api_key\":\"reload.outcome\"}").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    eventually("a line that was withheld", async || running.metric("vestibule_log_lines_withheld_total").await == 1.0)
        .await;
    let text = "a line of the log contained a secret; it is withheld";
    let withheld = eventually("the line in its place", async || events_that_say(&running.process, text).pop()).await;
    let fields = &withheld["fields"];
    assert_eq!((&fields["credential"], fields["log.target"].as_str()), (&"webhook".into(), Some("vestibule::reload")));
    assert!(events_that_say(&running.process, "the reload ended").is_empty());
}
