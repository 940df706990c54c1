//! A resource of a service's own whose methods panic or hang. It stops neither a reload nor a stop.

use std::{sync::Arc, time::Duration};
use vestibule::{
    Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet,
    config::Config,
    credentials::ApiKey,
    resources::{ProbeReason, Rejection, Resource},
    testing::{Harness, MemoryManager},
};

#[derive(SecretSet)]
struct Secrets {
    key: Credential<ApiKey>,
}

#[derive(Clone)]
struct Faulty;

impl Resource for Faulty {
    fn publish(&self) {
        panic!("a bug in publish");
    }

    fn rejection(&self) -> Option<Rejection> {
        panic!("a bug in rejection");
    }

    async fn probe(&self, _: ProbeReason, _: tokio::time::Instant) {
        std::future::pending::<()>().await;
    }

    fn retire(&self, _: Option<&Self>) {
        panic!("a bug in retire");
    }

    async fn close(&self) {
        panic!("a bug in close");
    }
}

struct Service {
    version: String,
}

impl Application for Service {
    const PACKAGE: Package = Package::new("faulty", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        cx.resource(&cx.secrets.key, &(), async |_| Ok(Faulty)).await?;
        Ok(Self { version: cx.secrets.key.version().to_string() })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

#[tokio::test]
async fn a_resource_that_panics_or_hangs_stops_neither_a_reload_nor_a_stop() {
    let manager = MemoryManager::with([("key", "first")]);
    let mut config = Config::default();
    config.secrets.deadline = Duration::from_secs(2);
    let harness = Harness::<Service>::start(manager.clone(), config).await.unwrap();
    let version = manager.rotate("key", "second");
    assert!(harness.reload().await.unwrap(), "it publishes, although the probe hangs and other methods panic");
    assert_eq!(harness.live().service().version, version.to_string());
    tokio::time::timeout(Duration::from_secs(20), harness.stop()).await.expect("the stop ends");
}
