//! `/metrics`, as Prometheus reads it.

use crate::{DEFAULT_TIMEOUT, Notes, RunningService, migrated, reload::async_body, service};
use devstack::reqwest::{Method, StatusCode};
use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The samples of a page, by name and labels.
pub(crate) struct Samples(BTreeMap<String, f64>);

impl Samples {
    pub(crate) async fn of(running: &RunningService<'_>) -> Self {
        let (code, kind, text) = running.page("/metrics").await;
        assert_eq!(code, StatusCode::OK);
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Self::parse(&text)
    }

    /// As strict as OpenMetrics 1.0.0 is about what this page has.
    fn parse(text: &str) -> Self {
        let lines = text.strip_suffix("# EOF\n").expect("the page has an end");
        let (mut helped, mut family, mut families) = (None, (String::new(), ""), HashSet::new());
        let mut samples = BTreeMap::new();
        for line in lines.lines() {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] if !help.is_empty() => helped = Some(name),
                ["#", "TYPE", name, kind] => {
                    assert_eq!(helped, Some(name), "no HELP before {line}");
                    assert!(families.insert(name.to_owned()), "a second {name}");
                    family = (name.to_owned(), kind);
                }
                _ => {
                    let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                    let name = series.split_once('{').map_or(series, |(name, _)| name);
                    let suffix = name.strip_prefix(&family.0).unwrap_or_else(|| panic!("no TYPE before {line}"));
                    let suffixes: &[&str] = match family.1 {
                        "counter" => &["_total"],
                        "gauge" => &[""],
                        "histogram" => &["_sum", "_count", "_bucket"],
                        "info" => &["_info"],
                        kind => panic!("{kind} is no type that this page has"),
                    };
                    assert!(suffixes.contains(&suffix), "{line} is no sample of a {}", family.1);
                    let value = value.parse().unwrap_or_else(|_| panic!("no number in {line}"));
                    assert!(samples.insert(series.to_owned(), value).is_none(), "a second {series}");
                }
            }
        }
        Self(samples)
    }

    #[track_caller]
    pub(crate) fn get(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.0))
    }

    fn find(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    fn reloads(&self, trigger: &str, outcome: &str) -> f64 {
        self.get(&format!("vestibule_reloads_total{{trigger=\"{trigger}\",outcome=\"{outcome}\"}}"))
    }

    fn holds(&self, name: &str, version: &str) -> bool {
        self.find(&held(name, version)) == Some(1.0)
    }

    /// Idle and used connections of a generation.
    fn connections(&self, generation: u64) -> Option<(f64, f64)> {
        let count =
            |state| self.find(&format!("db_client_connection_count{{generation=\"{generation}\",state=\"{state}\"}}"));
        Some((count("idle")?, count("used")?))
    }
}

fn held(name: &str, version: &str) -> String {
    format!("vestibule_credential_info{{name=\"{name}\",version=\"{version}\",stage=\"current\"}}")
}

/// Waits until the first generation has so many idle and used connections.
async fn until_connections(running: &RunningService<'_>, wanted: (f64, f64)) {
    let start = Instant::now();
    loop {
        let samples = Samples::of(running).await;
        if samples.connections(1) == Some(wanted) {
            return;
        }
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "{wanted:?} did not come: {:#?}", samples.0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test]
async fn a_scrape_says_what_the_process_is_and_holds() {
    let tenant = migrated("scrape").await;
    let running = RunningService::start(service(&tenant), &tenant).await;
    let status = running.status().await;
    let samples = Samples::of(&running).await;
    assert_eq!(samples.get("vestibule_generation"), 1.0);
    assert_eq!(samples.get("vestibule_draining_generations"), 0.0);
    let instance = status["instance"].as_str().unwrap();
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let build = format!("service_name=\"{name}\",service_version=\"{version}\",service_instance_id=\"{instance}\"");
    assert_eq!(samples.get(&format!("vestibule_build_info{{{build}}}")), 1.0);
    for credential in status["credentials"].as_array().unwrap() {
        let name = credential["name"].as_str().unwrap();
        assert!(samples.holds(name, credential["version"].as_str().unwrap()), "{name}: {:#?}", samples.0);
        let verified = samples.get(&format!("vestibule_credential_verified_timestamp_seconds{{name=\"{name}\"}}"));
        assert!((now() - 60.0..=now()).contains(&verified), "{name} was verified at {verified}");
    }
    for trigger in ["signal", "poll"] {
        for outcome in ["published", "unchanged", "kept"] {
            assert_eq!(samples.reloads(trigger, outcome), 0.0, "its first increment would be lost");
        }
    }
    assert_eq!(samples.connections(1), Some((0.0, 0.0)));
    assert!(samples.get("tokio_alive_tasks") >= 1.0);
    if cfg!(target_os = "linux") {
        let started = samples.get("process_start_time_seconds");
        assert!((now() - 60.0..=now() + 1.0).contains(&started), "started at {started}");
        assert!(samples.get("process_open_fds") < samples.get("process_max_fds"));
        let resident = samples.get("process_resident_memory_bytes");
        assert!((1e6..1e9).contains(&resident) && resident < samples.get("process_virtual_memory_bytes"));
        assert!(samples.get("process_threads") >= 2.0);
        let cpu = samples.get("process_cpu_seconds_total");
        assert!(cpu > 0.0 && cpu < 60.0, "{cpu} s");
    }
}

#[tokio::test]
async fn after_a_rotation_no_series_of_the_old_version_lingers() {
    let tenant = migrated("lingers").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    let old = tenant.version("database", "AWSCURRENT").await.unwrap().unwrap();
    assert!(Samples::of(&running).await.holds("database", &old));
    let new = tenant.rotate("database").await.unwrap();
    running.reload().await;
    let samples = Samples::of(&running).await;
    assert_eq!(samples.get("vestibule_generation"), 2.0);
    assert!(samples.holds("database", &new));
    assert!(!samples.0.keys().any(|series| series.contains(&old)), "{:#?}", samples.0);
}

#[tokio::test]
async fn reloads_are_counted_by_what_set_them_off_and_how_they_ended() {
    let tenant = migrated("counted").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    assert_eq!(running.reload().await["outcome"], "unchanged");
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    tenant.put("signing", "sentinel, and no key").await.unwrap();
    let mut took: u64 = 0;
    for _ in 0..2 {
        let reload = running.reload().await;
        assert_eq!(reload["outcome"], "kept");
        took += reload["duration_ms"].as_u64().unwrap();
    }
    let samples = Samples::of(&running).await;
    let counts = ["published", "unchanged", "kept"].map(|outcome| samples.reloads("signal", outcome));
    assert_eq!(counts, [1.0, 1.0, 2.0]);
    assert_eq!(samples.reloads("poll", "unchanged"), 0.0);
    assert_eq!(samples.get("vestibule_reload_duration_seconds_count"), 4.0);
    let sum = samples.get("vestibule_reload_duration_seconds_sum");
    assert!(sum > took as f64 / 1000.0 && sum < 60.0, "{sum} s");
    let bucket = |le: &str| samples.get(&format!("vestibule_reload_duration_seconds_bucket{{le=\"{le}\"}}"));
    assert_eq!(bucket("+Inf"), 4.0);
    assert!(bucket("0.01") <= bucket("30.0"));
}

#[tokio::test]
async fn connections_are_counted_under_the_generation_that_holds_them() {
    let tenant = migrated("counts").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    running.create("opens a connection").await;
    // It goes back to the pool beside the answer.
    until_connections(&running, (1.0, 0.0)).await;

    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE notes").execute(&mut admin).await.unwrap();
    let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let answer = tokio::spawn(post.body("{\"body\": \"waits for the lock\"}").send());
    until_connections(&running, (0.0, 1.0)).await;
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let both = Samples::of(&running).await;
    assert_eq!((both.connections(1), both.connections(2)), (Some((0.0, 1.0)), Some((0.0, 0.0))));
    assert_eq!(both.get("vestibule_draining_generations"), 1.0);

    sqlx::raw_sql("COMMIT").execute(&mut admin).await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::CREATED);
    running.wait_until("the end of draining", |status| status["draining"].as_array().unwrap().is_empty()).await;
    let after = Samples::of(&running).await;
    assert_eq!((after.connections(1), after.connections(2)), (None, Some((0.0, 0.0))));
}

#[tokio::test]
async fn connections_of_a_pool_that_was_carried_over_are_counted_once() {
    let tenant = migrated("carried").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    running.create("opens a connection").await;
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let slow = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let slow = tokio::spawn(slow.body(async_body("{\"body\": \"slow", wait, "\"}")).send());
    // Until the request holds its generation.
    tokio::time::sleep(Duration::from_millis(300)).await;
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let samples = Samples::of(&running).await;
    assert_eq!(samples.get("vestibule_draining_generations"), 1.0);
    assert_eq!((samples.connections(1), samples.connections(2)), (None, Some((1.0, 0.0))));
    go.send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::CREATED);
}
