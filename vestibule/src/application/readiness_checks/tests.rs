use super::*;
use crate::{
    application::Build,
    caught::PanicsWhenDropped,
    config::{Config, SettingsCheck},
    exit::Exit,
    metrics::exposition_format::ExpositionFormat,
    openapi::OpenApiRouter,
    package::Package,
    secrets::secret_parts::SecretParts,
    telemetry::live_secrets::{self, LiveSecretGuard},
    testing::{Harness, MemoryManager, idle_service::NoSecrets},
};

use serde::{Deserialize, Serialize};
use std::{
    any::Any,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::time::sleep;
use vestibule_derive::ConfigSection;

/// A service whose checks do what its settings say.
struct Checked {
    settings: CheckSettings,
    runs: AtomicUsize,
}

#[derive(Clone, Default, Serialize, Deserialize, ConfigSection)]
struct CheckSettings {
    /// The word that says what the check `disk` does.
    disk: String,
    /// The word that says what the check `search` does.
    search: String,
    /// `true` if a third check has the name of another one.
    twice: bool,
}

impl Application for Checked {
    const PACKAGE: Package = Package::new("checked", "0");
    type Settings = CheckSettings;
    type Secrets = NoSecrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        if cx.settings.disk.starts_with("bug: ") {
            return Err(BuildError::bug(&cx.settings.disk));
        }
        Ok(Self { settings: cx.settings.clone(), runs: AtomicUsize::default() })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }

    fn check(settings: &CheckSettings, check: &mut SettingsCheck<'_>) {
        if settings.disk == "refused" {
            check.refuse("service.disk", "another word");
        }
    }

    fn readiness(service: &Arc<Self>, checks: &mut ReadinessChecks<Self>) {
        checks.required("disk", |service: Arc<Self>| {
            service.runs.fetch_add(1, Ordering::SeqCst);
            assert_ne!(service.settings.disk, "panics", "as a bug before the first await would");
            async move { service.settings.check(&service.settings.disk).await }
        });
        if !service.settings.search.is_empty() {
            checks
                .optional("search", async |service: Arc<Self>| service.settings.check(&service.settings.search).await);
        }
        if service.settings.twice {
            checks.optional("disk", async |_| Ok::<_, String>(()));
        }
    }
}

impl CheckSettings {
    async fn check(&self, word: &str) -> Result<(), String> {
        match word {
            "" | "passes" => Ok(()),
            "hangs" => std::future::pending().await,
            "panics when it is given up" => {
                let _guard = PanicsWhenDropped;
                std::future::pending().await
            }
            word => Err(word.into()),
        }
    }
}

fn config(disk: &str, search: &str) -> Config<CheckSettings> {
    let service = CheckSettings { disk: disk.into(), search: search.into(), twice: false };
    Config { service, ..Config::default() }
}

async fn start(disk: &str, search: &str) -> Harness<Checked> {
    Harness::start(MemoryManager::new(), config(disk, search)).await.expect("it needs nothing")
}

/// Returns the answer of `/readyz`.
fn readyz(harness: &Harness<Checked>) -> serde_json::Value {
    let status = harness.reloader.status.read();
    let readiness = status.borrow().readiness();
    serde_json::to_value(readiness).expect("it is JSON")
}

/// Starts the rounds of checks.
fn watch_checks(harness: &Harness<Checked>) -> CancellationToken {
    let stopping = CancellationToken::new();
    tokio::spawn(watch_readiness(harness.live(), harness.reloader.status.clone(), stopping.clone()));
    stopping
}

#[tokio::test]
async fn a_test_learns_which_checks_fail_and_why() {
    let harness = start("passes", "passes").await;
    assert_eq!(harness.check_readiness().await, BTreeMap::new());
    let harness = start("panics", "the index is gone").await;
    let failing = harness.check_readiness().await;
    assert_eq!(failing, [("disk", "it panicked".into()), ("search", "the index is gone".into())].into());
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_required_takes_the_replica_out_and_an_optional_one_degrades_it() {
    for (disk, search, status) in [
        ("passes", "passes", "ready"),
        ("passes", "the index is gone", "degraded"),
        ("the disk is gone", "passes", "unready"),
        ("the disk is gone", "the index is gone", "unready"),
        ("hangs", "passes", "unready"),
        ("passes", "hangs", "degraded"),
        ("panics", "passes", "unready"),
        ("panics when it is given up", "passes", "unready"),
    ] {
        let harness = start(disk, search).await;
        harness.check_readiness().await;
        assert_eq!(readyz(&harness)["status"], status, "{disk}, {search}");
    }
}

#[tokio::test]
async fn a_probe_names_each_check_and_the_error() {
    let harness = start("passes", "the index is gone").await;
    let pending = readyz(&harness);
    assert_eq!(pending["status"], "unready", "no check has ended yet");
    assert_eq!(pending["checks"], serde_json::json!({ "disk": "pending", "search": "pending" }));
    harness.check_readiness().await;
    let answer = readyz(&harness);
    assert_eq!(answer["checks"], serde_json::json!({ "disk": "passing", "search": "failing" }));
    assert_eq!(answer["reasons"], serde_json::json!(["check `search` fails: the index is gone"]));
    let status = serde_json::to_value(&*harness.reloader.status.read().borrow()).expect("it is JSON");
    assert_eq!(status["readiness_checks"][1]["error"], "the index is gone");
    assert_eq!(status["readiness_checks"][1]["required"], false);
    let page = harness.reloader.loader.metrics.encode(ExpositionFormat::OpenMetrics);
    assert!(page.contains("vestibule_readiness_check{name=\"disk\"} 1\n"), "{page}");
    assert!(page.contains("vestibule_readiness_check{name=\"search\"} 0\n"), "{page}");
}

/// Makes a secret that is held until both values are dropped.
fn hold_secret(secret: &str) -> (Arc<dyn Any + Send + Sync>, LiveSecretGuard) {
    let (value, mut parts): (Arc<dyn Any + Send + Sync>, _) = (Arc::new(()), SecretParts::default());
    parts.add(secret);
    let guard = live_secrets::watch("search_key", &value, parts);
    (value, guard)
}

#[tokio::test]
async fn an_error_that_quotes_a_secret_is_withheld_and_counted_wherever_it_would_be_shown() {
    let secret = "key-of-the-search-index";
    let _held = hold_secret(secret);
    let harness = start("passes", &format!("403 for {secret}")).await;
    let shown = || {
        let status = serde_json::to_value(&*harness.reloader.status.read().borrow()).expect("it is JSON");
        let readyz = readyz(&harness);
        assert!(!format!("{status}{readyz}").contains(secret), "{status}{readyz}");
        (status, readyz)
    };
    let withheld = || harness.reloader.telemetry.withheld().get();
    harness.check_readiness().await;
    let (status, readyz) = shown();
    let text = "the error contained a secret; it is withheld";
    assert_eq!(status["readiness_checks"][1]["error"], text);
    assert_eq!((&readyz["reasons"][0], withheld()), (&format!("check `search` fails: {text}").into(), 1));

    harness.reload_with(config(&format!("bug: {secret}"), "passes")).await.unwrap_err();
    let (status, _) = shown();
    assert_eq!((&status["last_reload"]["error"], withheld()), (&text.into(), 2));
}

#[tokio::test(start_paused = true)]
async fn checks_run_about_every_five_seconds_and_end_with_the_process() {
    let harness = start("passes", "hangs").await;
    let service = harness.live().service();
    let stopping = watch_checks(&harness);
    sleep(Duration::from_secs(600)).await;
    let runs = service.runs.load(Ordering::SeqCst);
    // The check that hangs makes each round a second longer.
    assert!((85..=125).contains(&runs), "{runs} runs in 10 min");
    stopping.cancel();
    sleep(Duration::from_secs(600)).await;
    assert!(service.runs.load(Ordering::SeqCst) <= runs + 1);
}

#[tokio::test(start_paused = true)]
async fn checks_follow_the_generation_in_service_at_once() {
    let harness = start("the disk is gone", "").await;
    let _stopping = watch_checks(&harness).drop_guard();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(readyz(&harness)["status"], "unready");
    let replaced = Arc::downgrade(&harness.live().service());
    assert!(harness.reload_with(config("passes", "hangs")).await.unwrap());
    assert_eq!(readyz(&harness)["checks"]["disk"], "failing", "the last result counts until there is a new one");
    sleep(Duration::from_millis(1)).await;
    assert_eq!(readyz(&harness)["checks"], serde_json::json!({ "disk": "passing", "search": "pending" }));
    assert_eq!(replaced.strong_count(), 0, "no check keeps the replaced generation");
    assert!(harness.reload_with(config("passes", "")).await.unwrap());
    assert_eq!(readyz(&harness)["checks"], serde_json::json!({ "disk": "passing" }));
}

#[tokio::test(start_paused = true)]
async fn checks_of_a_new_generation_wait_until_the_status_can_take_their_results() {
    let (ahead, shown) = (start("passes", "").await, start("passes", "").await);
    assert!(ahead.reload_with(config("passes", "passes")).await.unwrap());
    let stopping = CancellationToken::new();
    let _stopping = stopping.clone().drop_guard();
    tokio::spawn(watch_readiness(ahead.live(), shown.reloader.status.clone(), stopping));
    let service = ahead.live().service();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(service.runs.load(Ordering::SeqCst), 0);
    assert!(shown.reload_with(config("passes", "passes")).await.unwrap());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(service.runs.load(Ordering::SeqCst), 1);
    assert_eq!(readyz(&shown)["status"], "ready");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_too_old_does_not_count() {
    let harness = start("passes", "").await;
    harness.check_readiness().await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(readyz(&harness)["status"], "ready");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(readyz(&harness)["status"], "unready");
    assert_eq!(readyz(&harness)["checks"]["disk"], "overdue");
}

#[tokio::test]
async fn two_checks_of_one_name_are_a_bug() {
    let service = CheckSettings { twice: true, ..CheckSettings::default() };
    let config = Config { service, ..Config::default() };
    let report = Harness::<Checked>::start(MemoryManager::new(), config).await.unwrap_err();
    assert!(report.to_string().contains("two readiness checks have the same name"), "{report}");
}

#[tokio::test]
async fn a_harness_refuses_settings_that_the_service_refuses_as_a_process_does() {
    let refused = || config("refused", "passes");
    let report = Harness::<Checked>::start(MemoryManager::new(), refused()).await.unwrap_err();
    assert_eq!(report.exit(), Exit::Config);
    assert!(report.to_string().contains("service.disk"), "{report}");
    let harness = start("passes", "passes").await;
    assert_eq!(harness.reload_with(refused()).await.unwrap_err().exit(), Exit::Config);
    assert_eq!(harness.live().generation().number, 1);
}
