//! `/metrics`, as Prometheus reads it.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        database::TableLock,
        metrics_page::{MetricsPage, wait_for_pool},
        reload_status::wait_until_drained,
        requests::begin_create,
        secrets::current_version,
        slow_request::SlowRequest,
    },
};
use devstack::reqwest::StatusCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time in seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test]
async fn a_scrape_shows_the_build_the_credentials_and_the_process() {
    let tenant = SERVICE.migrated("scrape").await;
    let running = SERVICE.start(&tenant).await;
    let status = running.status().await;
    let page = MetricsPage::of(&running).await;
    assert_eq!(page.get("vestibule_generation"), 1.0);
    assert_eq!(page.get("vestibule_draining_generations"), 0.0);
    let instance = status["instance"].as_str().unwrap();
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let build = format!("service_name=\"{name}\",service_version=\"{version}\",service_instance_id=\"{instance}\"");
    assert_eq!(page.get(&format!("vestibule_build_info{{{build}}}")), 1.0);
    for credential in status["credentials"].as_array().unwrap() {
        let name = credential["name"].as_str().unwrap();
        assert!(page.has_current(name, credential["version"].as_str().unwrap()), "{name}: {:#?}", page.series());
        let verified = page.get(&format!("vestibule_credential_verified_timestamp_seconds{{name=\"{name}\"}}"));
        assert!((now() - 60.0..=now()).contains(&verified), "{name} was verified at {verified}");
    }
    for trigger in ["signal", "poll"] {
        for outcome in ["published", "unchanged", "kept"] {
            assert_eq!(
                page.reloads(trigger, outcome),
                0.0,
                "without a first sample of 0, the first increment would be lost"
            );
        }
    }
    assert_eq!(page.connections(1), Some((1.0, 0.0)), "the connection that proved the login");
    assert!(page.get("tokio_alive_tasks") >= 1.0);
    if cfg!(target_os = "linux") {
        let started = page.get("process_start_time_seconds");
        assert!((now() - 60.0..=now() + 1.0).contains(&started), "started at {started}");
        assert!(page.get("process_open_fds") < page.get("process_max_fds"));
        let resident = page.get("process_resident_memory_bytes");
        assert!((1e6..1e9).contains(&resident) && resident < page.get("process_virtual_memory_bytes"));
        assert!(page.get("process_threads") >= 2.0);
        let cpu = page.get("process_cpu_seconds_total");
        assert!(cpu > 0.0 && cpu < 60.0, "{cpu} s");
    }
}

#[tokio::test]
async fn a_client_that_does_not_know_openmetrics_gets_text() {
    let tenant = SERVICE.migrated("text").await;
    let running = SERVICE.start(&tenant).await;
    for accept in ["*/*", "text/plain;version=0.0.4"] {
        let (_, kind, text) = running.page_as("/metrics", accept).await;
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8", "{accept}");
        assert!(text.contains("\n# TYPE vestibule_reloads_total counter\n"), "{text}");
        assert!(text.contains("\n# TYPE vestibule_build_info gauge\n") && !text.contains("EOF"), "{text}");
    }
}

#[tokio::test]
async fn after_a_rotation_no_series_of_the_old_version_remains() {
    let tenant = SERVICE.migrated("lingers").await;
    let mut running = SERVICE.start(&tenant).await;
    let old = current_version(&tenant, "database").await;
    assert!(MetricsPage::of(&running).await.has_current("database", &old));
    let new = tenant.rotate("database").await.unwrap();
    running.reload().await;
    let page = MetricsPage::of(&running).await;
    assert_eq!(page.get("vestibule_generation"), 2.0);
    assert!(page.has_current("database", &new));
    let of_old: Vec<_> = page.series().into_iter().filter(|series| series.contains(&old)).collect();
    assert!(of_old.iter().all(|series| series.starts_with("vestibule_credential_last_used_")), "{of_old:#?}");
}

#[tokio::test]
async fn reloads_are_counted_by_trigger_and_outcome() {
    let tenant = SERVICE.migrated("counted").await;
    let mut running = SERVICE.start(&tenant).await;
    assert_eq!(running.reload().await["outcome"], "unchanged");
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    let mut kept_ms: u64 = 0;
    for _ in 0..2 {
        let reload = running.reload().await;
        assert_eq!(reload["outcome"], "kept");
        kept_ms += reload["duration_ms"].as_u64().unwrap();
    }
    let page = MetricsPage::of(&running).await;
    let counts = ["published", "unchanged", "kept"].map(|outcome| page.reloads("signal", outcome));
    assert_eq!(counts, [1.0, 1.0, 2.0]);
    assert_eq!(page.reloads("poll", "unchanged"), 0.0);
    assert_eq!(page.get("vestibule_reload_duration_seconds_count"), 4.0);
    let sum = page.get("vestibule_reload_duration_seconds_sum");
    assert!(sum > kept_ms as f64 / 1000.0 && sum < 60.0, "{sum} s");
    let bucket = |le: &str| page.get(&format!("vestibule_reload_duration_seconds_bucket{{le=\"{le}\"}}"));
    assert_eq!(bucket("+Inf"), 4.0);
    assert!(bucket("0.01") <= bucket("30.0"));
}

#[tokio::test]
async fn connections_are_counted_for_the_generation_that_holds_them() {
    let tenant = SERVICE.migrated("counts").await;
    let mut running = SERVICE.start(&tenant).await;
    running.create_note("opens a connection").await;
    // The connection returns to the pool at about the time of the answer.
    wait_for_pool(&running, (1.0, 0.0)).await;

    let lock = TableLock::on(&tenant, "notes").await;
    let waiting = begin_create(&running, "waits for the lock");
    wait_for_pool(&running, (0.0, 1.0)).await;
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let both = MetricsPage::of(&running).await;
    assert_eq!((both.connections(1), both.connections(2)), (Some((0.0, 1.0)), Some((1.0, 0.0))));
    assert_eq!(both.get("vestibule_draining_generations"), 1.0);

    lock.release().await;
    assert_eq!(waiting.await.unwrap(), StatusCode::CREATED);
    wait_until_drained(&running).await;
    let after = MetricsPage::of(&running).await;
    assert_eq!((after.connections(1), after.connections(2)), (None, Some((1.0, 0.0))));
}

#[tokio::test]
async fn connections_of_a_pool_that_was_carried_over_are_counted_once() {
    let tenant = SERVICE.migrated("carried").await;
    let mut running = SERVICE.start(&tenant).await;
    running.create_note("opens a connection").await;
    let slow = SlowRequest::start(&running).await;
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let page = MetricsPage::of(&running).await;
    assert_eq!(page.get("vestibule_draining_generations"), 1.0);
    assert_eq!((page.connections(1), page.connections(2)), (None, Some((1.0, 0.0))));
    assert_eq!(slow.finish().await, StatusCode::CREATED);
}
