use super::*;
use crate::{
    caught::PanicsWhenDropped,
    metrics::exposition_format::ExpositionFormat,
    testing::{Harness, MemoryManager, idle_service::NoSecrets},
};
use serde::{Deserialize, Serialize};
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
    number: u8,
    /// `true` if its build does not end.
    hangs: bool,
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
