//! The background tasks of a service, in its tests.

use crate::eventually::eventually;
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use vestibule::{
    Application, Background, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet, WorkerWake,
    config::{Config, ServerConfig},
    credentials::ApiKey,
    testing::{Harness, MemoryManager},
};

#[derive(SecretSet)]
#[expect(dead_code, reason = "the service only holds it")]
struct Secrets {
    api: Credential<ApiKey>,
}

/// A service that works beside requests.
struct WorkingService {
    /// The number of pieces of work that were done for this generation.
    pieces: AtomicUsize,
    /// The number of tasks that have ended when the process was asked to stop.
    ended: AtomicUsize,
    /// `false` if that task does not end.
    ends: bool,
    wake: WorkerWake,
}

#[derive(Default, Serialize, Deserialize, vestibule::ConfigSection)]
struct Settings {
    /// `true` if the background task ends when the service stops.
    ends: bool,
}

impl Application for WorkingService {
    const PACKAGE: Package = Package::new("working", "0");
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let (pieces, ended, wake) = (AtomicUsize::new(0), AtomicUsize::new(0), cx.worker_wake("counting"));
        Ok(Self { pieces, ended, ends: cx.settings.ends, wake })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }

    fn background(tasks: &Background<Self>) {
        tasks.work(
            "counting",
            1,
            |_| Duration::from_secs(10),
            async |service: Arc<Self>| {
                service.pieces.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(false)
            },
        );
        tasks.spawn("ending", |live, stopping| async move {
            stopping.cancelled().await;
            // It needs some more time to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let service = live.service();
            if !service.ends {
                std::future::pending::<()>().await;
            }
            service.ended.fetch_add(1, Ordering::SeqCst);
        });
    }
}

async fn start(config: Config<Settings>) -> (Arc<MemoryManager>, Harness<WorkingService>) {
    let manager = MemoryManager::with([("api", "key-one")]);
    let harness = Harness::start(manager.clone(), config).await.expect("it needs a key alone");
    (manager, harness)
}

async fn wait_for_work(service: &WorkingService) {
    eventually("a piece of work", || service.pieces.load(Ordering::SeqCst), |pieces| *pieces > 0).await;
}

#[tokio::test]
async fn a_test_can_run_the_background_tasks_of_a_service_over_a_rotation_and_to_their_end() {
    let (manager, harness) = start(Config { service: Settings { ends: true }, ..Config::default() }).await;
    harness.start_background();
    harness.start_background();
    wait_for_work(&harness.live().service()).await;
    manager.rotate("api", "key-two");
    assert!(harness.reload().await.unwrap());
    let service = harness.live().service();
    wait_for_work(&service).await;
    harness.stop().await;
    assert_eq!(service.ended.load(Ordering::SeqCst), 1, "a stop waits for the tasks, which were started once");
}

#[tokio::test(start_paused = true)]
async fn a_service_wakes_its_workers_at_once() {
    let (manager, harness) = start(Config { service: Settings { ends: true }, ..Config::default() }).await;
    harness.start_background();
    tokio::time::sleep(Duration::from_secs(1)).await;
    manager.rotate("api", "key-two");
    assert!(harness.reload().await.unwrap());
    // The workers are those of all generations.
    let service = harness.live().service();
    service.wake.wake();
    // The clock moves on when all tasks wait.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_ne!(service.pieces.load(Ordering::SeqCst), 0, "it does not wait for the next look");
    harness.stop().await;
}

#[tokio::test]
#[should_panic = "a background task did not end within server.drain"]
async fn a_background_task_that_does_not_end_fails_the_test() {
    let server = ServerConfig { drain: Duration::from_millis(100), ..ServerConfig::default() };
    let (_, harness) = start(Config { server, ..Config::default() }).await;
    harness.start_background();
    harness.stop().await;
}
