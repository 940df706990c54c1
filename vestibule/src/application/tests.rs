use super::*;
use crate::{
    caught::PanicsWhenDropped,
    exit::Exit,
    metrics::exposition_format::ExpositionFormat,
    testing::{Harness, MemoryManager, idle_service::NoSecrets},
};
use serde::{Deserialize, Serialize, Serializer};
use std::{future::pending, time::Duration};
use tokio::time::{sleep, timeout};
use vestibule_derive::ConfigSection;

/// A service that panics whenever it is dropped.
struct Fragile {
    _guard: PanicsWhenDropped,
}

#[derive(Default, Serialize, Deserialize, ConfigSection)]
struct FragileSettings {
    /// The number of this configuration.
    #[setting(min = 0, max = 9)]
    #[serde(serialize_with = "write_number")]
    number: u8,
    /// `true` if its build does not end.
    hangs: bool,
}

/// The number that `Serialize` panics for.
const UNWRITABLE: u8 = 9;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it")]
fn write_number<S: Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    assert_ne!(*number, UNWRITABLE);
    serializer.serialize_u8(*number)
}

impl Application for Fragile {
    const PACKAGE: Package = Package::new("fragile", "0");
    type Settings = FragileSettings;
    type Secrets = NoSecrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let service = Self { _guard: PanicsWhenDropped };
        cx.counter("builds", "Builds that have begun", &[])?.inc();
        if cx.settings.hangs {
            pending::<()>().await;
        }
        Ok(service)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

fn config(number: u8, hangs: bool) -> Config<FragileSettings> {
    Config { service: FragileSettings { number, hangs }, ..Config::default() }
}

async fn start() -> Harness<Fragile> {
    let harness = Harness::start(MemoryManager::new(), config(1, false)).await.expect("it needs nothing");
    harness.start_reloading();
    harness
}

#[tokio::test]
async fn settings_that_cannot_be_written_fail_their_own_reload() {
    let harness = Harness::<Fragile>::start(MemoryManager::new(), config(1, false)).await.expect("it needs nothing");
    let report = harness.reload_with(config(UNWRITABLE, false)).await.expect_err("it panics");
    assert_eq!(report.exit(), Exit::Bug);
    assert!(harness.reload_with(config(2, false)).await.expect("a new number"));
    harness.stop().await;
}

#[tokio::test]
async fn a_service_whose_drop_panics_is_replaced_again_and_again() {
    let harness = start().await;
    let mut live = harness.live();
    for number in 2..4 {
        harness.configure(config(number, false));
        harness.signal();
        assert!(timeout(Duration::from_secs(30), live.changed()).await.expect("in time"));
    }
    harness.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_build_that_panics_when_it_is_given_up_ends_neither_the_reload_actor_nor_the_stop() {
    let harness = start().await;
    harness.configure(config(2, true));
    harness.signal();
    sleep(Duration::from_secs(1)).await;
    let page = harness.reloader.loader.metrics.encode(ExpositionFormat::OpenMetrics);
    assert!(page.contains("fragile_builds_total{} 2\n"), "{page}");
    harness.stop().await;
}
