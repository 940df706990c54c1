//! The framework as the crate of a service uses it, with a secrets manager in memory.

mod access;
mod background;
mod faulty_resource;
mod fifth_kind;
mod frame;
mod frame_service;
mod memory_manager;
mod metrics;
mod own_manager;
mod problem;
mod revoked_version;
mod routes;
mod several_resources;

mod captured_log;
#[path = "../../src/testing/eventually.rs"]
mod eventually;
mod relay;

use axum::{
    body::Body,
    extract::{Request, State},
    routing::get,
};
use futures_util::future::BoxFuture;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use time::OffsetDateTime;
use tower::Service as _;
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, Credential, Live, OpenApiRouter, Package, SecretSet, Signer,
    config::Config,
    credentials::{ApiKey, Login, SigningKeys},
    exit::{Exit, Report},
    http::Door,
    secrets::{Fetched, SecretId, Source, SourceError, Stage, VersionId, Versions},
};

const SENTINEL: &str = "c2VudGluZWwtc2VudGluZWwtc2VudGluZWwtc2VudGluZWw=";

#[derive(SecretSet)]
struct Secrets {
    api: Credential<ApiKey>,
    login: Credential<Login>,
    other: Credential<ApiKey>,
    signing: Credential<SigningKeys>,
    off: Option<Credential<ApiKey>>,
}

/// A service with credentials of all kinds, that shows as much of them as it can.
struct Probe {
    signer: Signer,
    credentials: String,
}

impl Application for Probe {
    const PACKAGE: Package = Package::new("probe", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let Secrets { api, login, other, signing, off } = cx.secrets;
        assert!(off.is_none(), "it has no id in the configuration");
        Ok(Self {
            signer: cx.signer(signing, "probe", Duration::from_secs(60)),
            credentials: format!("{api:?} {login:?} {other:?} {signing:?}"),
        })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        async fn panic(State(probe): State<Arc<Probe>>) {
            panic!("{} {:?}", probe.credentials, probe.signer);
        }
        OpenApiRouter::new().route("/panic", get(panic)).route("/", get("hello"))
    }
}

/// Returns a manager with good secrets.
fn good_secrets() -> Arc<MemoryManager> {
    MemoryManager::with([("api", SENTINEL), ("login", SENTINEL), ("other", SENTINEL), ("signing", SENTINEL)])
}

/// Starts the service. Returns the generation in service.
async fn start(source: Arc<dyn Source>) -> Result<Live<Probe>, Report> {
    Ok(Harness::start(source, Config::default()).await?.live())
}

#[tokio::test]
async fn nothing_that_holds_a_credential_shows_it() {
    let live = start(good_secrets()).await.unwrap();
    let generation = live.generation();
    let mut door = Door::new(live.clone());
    let request = Request::get("/panic").body(Body::empty()).unwrap();
    let response = door.call(request).await.unwrap();
    assert_eq!(response.status(), 500);
    let body = axum::body::to_bytes(Body::new(response.into_body()), 4096).await.unwrap();
    let shown = format!(
        "{generation:?} {live:?} {door:?} {:?} {} {}",
        generation.service.signer,
        generation.service.credentials,
        String::from_utf8_lossy(&body)
    );
    assert!(!shown.contains(SENTINEL) && !shown.contains("sentinel"), "a credential is shown");
    assert!(shown.contains("v1"), "the version is shown: {shown}");
}

#[tokio::test]
async fn a_response_holds_its_generation_until_its_last_byte() {
    let live = start(good_secrets()).await.unwrap();
    let generation = live.generation();
    let idle_count = Arc::strong_count(&generation);
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = Door::new(live.clone()).call(request).await.unwrap();
    assert_eq!(Arc::strong_count(&generation), idle_count + 1);
    let body = axum::body::to_bytes(Body::new(response.into_body()), 4096).await.unwrap();
    assert_eq!(body, "hello");
    assert_eq!(Arc::strong_count(&generation), idle_count);
}

#[tokio::test]
async fn a_report_has_the_faults_of_all_credentials() {
    let source = MemoryManager::with([("api", "two words"), ("login", "{"), ("other", " "), ("nothing", "")]);
    let report = start(source).await.unwrap_err();
    let faults: Vec<_> = report.faults().iter().map(|fault| (fault.subject.as_str(), fault.exit)).collect();
    assert_eq!(
        faults,
        [
            ("credential `api` (api)", Exit::Malformed),
            ("credential `login` (login)", Exit::Malformed),
            ("credential `other` (other)", Exit::Malformed),
            ("credential `signing` (signing)", Exit::Missing),
        ]
    );
    assert_eq!(report.exit(), Exit::Missing);
}

#[tokio::test]
async fn a_service_that_replaced_a_key_accepts_its_tokens_however_old_the_next_key_is() {
    let source = good_secrets();
    source.set_creation_time("signing", Stage::Current, OffsetDateTime::UNIX_EPOCH);
    let probe = Harness::<Probe>::start(source.clone(), Config::default()).await.unwrap();
    let token = probe.live().service().signer.seal(b"payload");
    source.rotate("signing", "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=");
    source.set_creation_time("signing", Stage::Current, OffsetDateTime::UNIX_EPOCH);
    assert!(probe.reload().await.unwrap());
    assert_eq!(probe.live().service().signer.open(&token).unwrap(), b"payload");
    source.put_at("signing", Stage::Pending, SENTINEL);
    assert!(probe.reload().await.unwrap());
    assert_eq!(
        probe.live().service().signer.open(&token).unwrap(),
        b"payload",
        "the service remembers when it replaced the key"
    );

    let started_later = start(source).await.unwrap();
    assert!(started_later.service().signer.open(&token).is_err());
}

/// A service whose build panics with a credential in the message.
struct Careless;

impl Application for Careless {
    const PACKAGE: Package = Package::new("careless", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        panic!("{:?}", cx.secrets.api);
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

#[tokio::test]
async fn a_build_that_panics_ends_with_a_report() {
    let report = Harness::<Careless>::start(good_secrets(), Config::default()).await.unwrap_err();
    assert_eq!(report.exit(), Exit::Bug);
    assert!(report.to_string().contains("panicked"), "{report}");
}

/// A manager that counts the requests that it answers at the same time.
struct CountingManager {
    manager: Arc<MemoryManager>,
    in_flight: AtomicUsize,
    highest: AtomicUsize,
}

impl Source for CountingManager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            self.highest.fetch_max(1 + self.in_flight.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            let fetched = self.manager.fetch(id, stage, held).await;
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            fetched
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        self.manager.versions(id)
    }
}

#[tokio::test]
async fn credentials_are_fetched_concurrently() {
    let manager = good_secrets();
    // So that concurrent requests overlap.
    manager.delay(Duration::from_millis(20));
    let (in_flight, highest) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let source = Arc::new(CountingManager { manager, in_flight, highest });
    start(source.clone()).await.unwrap();
    // The current stage of three credentials, and the three stages of the signing keys.
    assert_eq!(source.highest.load(Ordering::SeqCst), 6);
}

#[derive(SecretSet)]
#[expect(dead_code, reason = "only the names of its fields are read")]
struct UnusualNames {
    resolver: Credential<ApiKey>,
    name: Credential<ApiKey>,
    r#type: Credential<ApiKey>,
}

#[test]
fn a_credential_may_have_a_name_that_the_derive_uses_itself() {
    let names: Vec<_> =
        <UnusualNames as vestibule::secrets::SecretSet>::specs().into_iter().map(|spec| spec.name).collect();
    assert_eq!(names, ["resolver", "name", "type"]);
}
