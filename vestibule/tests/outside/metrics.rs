//! Metrics of a service. Its generations share them.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet,
    config::Config,
    credentials::ApiKey,
    exit::Exit,
    metrics::{Counter, Gauge, linear_buckets},
};

#[derive(SecretSet)]
struct Secrets {
    key: Credential<ApiKey>,
}

#[derive(Default, Serialize, Deserialize, vestibule::ConfigSection)]
struct Settings {
    /// The name of one more metric.
    gauge: String,
}

/// A service that counts how often it is built.
struct Measured {
    builds: Counter,
    in_use: Gauge,
    key_version: String,
}

impl Application for Measured {
    const PACKAGE: Package = Package::new("measured", "0");
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let builds = cx.counter("builds", "Services that were built", &[("kind", "all")])?;
        builds.inc();
        cx.histogram("build_seconds", "Durations", &[], linear_buckets(0.1, 0.1, 4))?.observe(0.3);
        let in_use = cx.gauge(&cx.settings.gauge, "Things in use", &[])?;
        Ok(Self { builds, in_use, key_version: cx.secrets.key.version().to_string() })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

fn config(gauge: &str) -> Config<Settings> {
    Config { service: Settings { gauge: gauge.to_owned() }, ..Config::default() }
}

#[tokio::test]
async fn all_generations_have_the_same_metrics() {
    let manager = MemoryManager::with([("key", "key-1")]);
    let harness = Harness::<Measured>::start(manager.clone(), config("in_use")).await.unwrap();
    let first = harness.live().service();
    first.in_use.set(7);
    manager.rotate("key", "key-2");
    assert!(harness.reload().await.unwrap());
    let second = harness.live().service();
    assert_ne!(first.key_version, second.key_version);
    assert_eq!((second.builds.get(), second.in_use.get()), (2, 7));
    first.builds.inc();
    assert_eq!(second.builds.get(), 3);
}

#[tokio::test]
async fn one_name_for_a_histogram_and_a_gauge_is_a_bug() {
    let manager = MemoryManager::with([("key", "key-1")]);
    let report = Harness::<Measured>::start(manager, config("build_seconds")).await.unwrap_err();
    assert_eq!(report.exit(), Exit::Bug);
    assert!(report.to_string().contains("metrics of one name differ in type"), "{report}");
}
