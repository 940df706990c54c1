//! The whole stack, on a loader of its own, against a server of its own.

mod rejected;
mod retry;

use super::*;
use crate::{
    application::{Application, Build, Generation},
    config::Config,
    loader::{LoadOutcome, LoadRequest, Loader},
    package::Package,
    resources::breaker::ProbeReason,
    secrets::{
        id::{SecretId, VersionId},
        resolver::Resolver,
        set::{CredentialField, SecretSet},
        source::{Fetched, Source, SourceError},
        spec::CredentialSpec,
        version::{SecretValue, Stage, Versions},
    },
};
use axum::{Router, body::Body, extract::State, http::StatusCode, response::IntoResponse};
use futures_util::future::BoxFuture;
use sqlx::migrate::Migrator;
use std::{
    collections::VecDeque,
    sync::{Mutex, RwLock},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The manager has this version of the key.
#[derive(Default)]
struct Manager(RwLock<(String, String)>);

impl Manager {
    fn put(&self, version: &str, key: &str) {
        *self.0.write().unwrap() = (version.into(), key.into());
    }
}

impl Source for Manager {
    fn fetch<'a>(
        &'a self,
        _: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let (version, key) = &*self.0.read().unwrap();
            Ok(match (stage, held) {
                (Stage::Current, Some(held)) if held.as_str() == version => Fetched::Same,
                (Stage::Current, _) => Fetched::New(SecretValue {
                    text: key.clone().into(),
                    version: VersionId::new(version),
                    created: None,
                }),
                _ => Fetched::Absent,
            })
        })
    }

    fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async { Ok(Versions::new()) })
    }
}

struct Secrets {
    remote: Credential<ApiKey>,
}

/// By hand: the derived one names this crate from outside.
impl SecretSet for Secrets {
    fn specs() -> Vec<CredentialSpec> {
        vec![<Credential<ApiKey> as CredentialField>::spec("remote")]
    }

    fn resolve(resolver: &mut Resolver<'_>) -> Option<Self> {
        Some(Self { remote: CredentialField::resolve("remote", resolver)? })
    }
}

/// A service that has nothing but a client.
struct Caller(ApiClient);

/// JSON cannot say everything that an `ApiEndpoint` can: the rest is asked for by name.
#[derive(Clone, Default, Serialize, serde::Deserialize)]
#[serde(default)]
struct Settings {
    url: Option<BaseUrl>,
    timeout_ms: Option<u64>,
    attempts: Option<NonZeroU32>,
    concurrency: Option<NonZeroUsize>,
    x_api_key: bool,
}

static NO_MIGRATIONS: Migrator = Migrator::DEFAULT;

impl Application for Caller {
    const PACKAGE: Package = Package { name: "caller", version: "1", migrations: &NO_MIGRATIONS };
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let Settings { url, timeout_ms, attempts, concurrency, x_api_key } = cx.settings.clone();
        let api = ApiEndpoint::at(url.ok_or_else(|| BuildError::setting("url", "a URL"))?);
        let api = ApiEndpoint {
            timeout: timeout_ms.map_or(api.timeout, Duration::from_millis),
            attempts: attempts.unwrap_or(api.attempts),
            concurrency: concurrency.unwrap_or(api.concurrency),
            key_header: if x_api_key { KeyHeader::Named("x-api-key") } else { api.key_header },
            ..api
        };
        Ok(Self(cx.client(&cx.secrets.remote, &api).await?))
    }

    fn routes() -> Router<Arc<Self>> {
        Router::new()
    }
}

/// The other side: answers from a list, then 200; keeps what it got.
#[derive(Clone, Default)]
struct Other {
    answers: Arc<Mutex<VecDeque<Response<Body>>>>,
    got: Arc<Mutex<Vec<Request<()>>>>,
    /// Not this key.
    refuses: Arc<Mutex<Option<&'static str>>>,
    /// How long each answer takes, and how many are under way: now, and at most.
    takes: Duration,
    busy: Arc<Mutex<(usize, usize)>>,
}

impl Other {
    async fn listen(self) -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let router = Router::new().fallback(Self::answer).with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        (self, url)
    }

    async fn answer(State(other): State<Self>, request: Request<Body>) -> Response<Body> {
        let request = request.map(|_| ());
        let borne = |name: &str| Some(request.headers().get(name)?.to_str().expect("text").to_owned());
        let key = borne("authorization").or(borne("x-api-key")).expect("a key");
        let refused = other.refuses.lock().unwrap().is_some_and(|refused| key.ends_with(refused));
        other.got.lock().unwrap().push(request);
        {
            let mut busy = other.busy.lock().unwrap();
            busy.0 += 1;
            busy.1 = busy.1.max(busy.0);
        }
        tokio::time::sleep(other.takes).await;
        other.busy.lock().unwrap().0 -= 1;
        if refused {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        other.answers.lock().unwrap().pop_front().unwrap_or_default()
    }

    fn answers(&self, answers: impl IntoIterator<Item = impl IntoResponse>) {
        *self.answers.lock().unwrap() = answers.into_iter().map(IntoResponse::into_response).collect();
    }

    fn calls(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    /// The header of each request.
    fn got(&self, header: &str) -> Vec<String> {
        let text = |request: &Request<()>| Some(request.headers().get(header)?.to_str().expect("text").to_owned());
        self.got.lock().unwrap().iter().filter_map(text).collect()
    }
}

/// A loader, and what a reload actor does on it when a key is refused.
struct Process {
    loader: Arc<Loader<Caller>>,
    manager: Arc<Manager>,
    config: Arc<Config<Settings>>,
    live: tokio::sync::watch::Sender<Arc<Generation<Caller>>>,
    trips: Arc<Mutex<usize>>,
}

impl Process {
    async fn start(settings: Settings) -> Arc<Self> {
        let manager = Arc::new(Manager::default());
        manager.put("v1", "key-one");
        let loader = Arc::new(Loader::<Caller>::new(manager.clone()));
        let config = Arc::new(Config { service: settings, ..Config::default() });
        let first = loader.first_load(config.clone(), Instant::now() + Duration::from_secs(5)).await;
        let first = Arc::new(first.unwrap_or_else(|report| panic!("{report}")));
        first.resources.publish();
        let live = tokio::sync::watch::Sender::new(first);
        let process = Arc::new(Self { loader, manager, config, live, trips: Arc::default() });
        tokio::spawn(process.clone().act());
        process
    }

    async fn act(self: Arc<Self>) {
        loop {
            self.loader.reload_requests.next().await;
            self.loader.reload_requests.reload_started();
            *self.trips.lock().unwrap() += 1;
            self.reload(self.config.clone()).await;
            self.loader.reload_requests.reload_ended();
        }
    }

    async fn reload(&self, config: Arc<Config<Settings>>) {
        let held = self.live.borrow().clone();
        let deadline = Instant::now() + Duration::from_secs(5);
        let load_request =
            LoadRequest { config, in_service: Some(&held), deadline, probe_reason: ProbeReason::Scheduled };
        if let Ok(LoadOutcome::Built { generation, .. }) = self.loader.load(load_request).await.result {
            generation.resources.publish();
            self.live.send_replace(Arc::new(*generation));
        }
    }

    fn client(&self) -> ApiClient {
        self.live.borrow().service.0.clone()
    }

    fn trips(&self) -> usize {
        *self.trips.lock().unwrap()
    }
}

fn at(url: &str) -> Settings {
    Settings { url: BaseUrl::parse(url), ..Settings::default() }
}

async fn other() -> (Other, String) {
    Other::default().listen().await
}

fn request(method: &str, uri: &str) -> Request<Bytes> {
    Request::builder().method(method).uri(uri).body(Bytes::from_static(b"body")).unwrap()
}

fn idempotent_post() -> Request<Bytes> {
    let mut request = request("POST", "/");
    request.headers_mut().insert("idempotency-key", HeaderValue::from_static("1"));
    request
}

#[tokio::test]
async fn the_key_goes_to_the_base_url_and_nowhere_else() {
    let (other, url) = other().await;
    let client = Process::start(at(&format!("{url}/base"))).await.client();
    let mut call = request("GET", "/v1/items?page=2");
    call.headers_mut().insert("host", HeaderValue::from_static("elsewhere.example"));
    assert_eq!(client.send(call).await.unwrap().status(), StatusCode::OK);
    assert_eq!(other.got("authorization"), ["Bearer key-one"]);
    assert_eq!(other.got("user-agent"), ["caller/1"]);
    assert_eq!(other.got("host"), [url.trim_start_matches("http://")]);
    assert_eq!(other.got.lock().unwrap()[0].uri(), "/base/v1/items?page=2");

    let error = client.send(request("GET", "https://elsewhere.example/?q=private")).await.unwrap_err();
    assert!(matches!(error, CallError::Elsewhere), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("private"));
    let shown = format!("{client:?}");
    assert!(shown.contains("127.0.0.1") && !shown.contains("base") && !shown.contains("key-one"), "{shown}");
}

#[tokio::test]
async fn a_header_of_its_own_bears_the_key_alone() {
    let (other, url) = other().await;
    let client = Process::start(Settings { x_api_key: true, ..at(&url) }).await.client();
    client.send(request("GET", "/")).await.unwrap();
    assert_eq!((other.got("x-api-key"), other.got("authorization")), (vec!["key-one".to_owned()], vec![]));
}

#[tokio::test]
async fn the_header_is_marked_as_sensitive() {
    let version = VersionId::new("v1");
    let values = crate::secrets::SecretValues::new(
        SecretValue { text: "key-one".into(), version: version.clone(), created: None },
        Default::default(),
        None,
    );
    let key = <ApiKey as crate::secrets::Kind>::read(&values).unwrap();
    let held = key::VersionedKey::new(version, &key, KeyHeader::Bearer, header::AUTHORIZATION);
    let keys = Arc::new(Keys::new(held, None, &Arc::default(), "remote"));
    let seen = tower::service_fn(async |request: Request<Bytes>| {
        let value = &request.headers()["authorization"];
        assert!(value.is_sensitive(), "HTTP/2 would keep it in its table");
        assert!(!format!("{request:?}").contains("key-one"));
        Ok::<_, CallError>(Response::new(Bytes::copy_from_slice(value.as_bytes())))
    });
    let seen = tower::util::BoxService::new(seen);
    let answer = AddKey::new(seen, keys).oneshot(request("GET", "/")).await.unwrap();
    assert_eq!(answer.body(), "Bearer key-one");
}

#[tokio::test]
async fn who_does_not_answer_or_is_not_there_is_named_without_the_query() {
    let (_, url) = Other { takes: Duration::from_secs(60), ..Other::default() }.listen().await;
    let client = Process::start(Settings { timeout_ms: Some(200), ..at(&url) }).await.client();
    let error = client.send(request("GET", "/?q=private")).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout(_)), "{error:?}");

    let client = Process::start(at("http://127.0.0.1:1")).await.client();
    let error = client.send(request("GET", "/?q=private")).await.unwrap_err();
    assert!(matches!(error, CallError::Unconnected { .. }), "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("127.0.0.1:1") && !shown.contains("private") && !shown.contains("key-one"), "{shown}");
}

#[tokio::test]
async fn an_answer_is_bounded_and_a_redirect_is_not_followed() {
    let (other, url) = other().await;
    let (there, elsewhere) = self::other().await;
    let client = Process::start(at(&url)).await.client();
    other.answers(["x".repeat(1024 * 1024), "x".repeat(1024 * 1024 + 1)]);
    assert_eq!(client.send(request("GET", "/")).await.unwrap().body().len(), 1024 * 1024);
    let error = client.send(request("GET", "/")).await.unwrap_err();
    assert!(matches!(error, CallError::Unread { status: StatusCode::OK, .. }), "{error:?}");
    other.answers([(StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, elsewhere)])]);
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(there.calls(), 0);
}

#[tokio::test]
async fn what_was_answered_counts_though_the_answer_breaks_or_is_late() {
    for (head, hangs, taken) in [("200 OK", false, true), ("200 OK", true, true), ("500 Oh", false, false)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(0));
        let count = calls.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                let read = connection.read(&mut [0; 1024]).await.expect("a request comes");
                *count.lock().unwrap() += usize::from(read > 0);
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 10\r\n\r\nhalf");
                connection.write_all(answer.as_bytes()).await.expect("somebody reads");
                open.extend(hangs.then_some(connection));
            }
        });
        let client = Process::start(Settings { timeout_ms: Some(500), ..at(&url) }).await.client();
        let error = client.send(idempotent_post()).await.unwrap_err();
        assert!(matches!(&error, CallError::Unread { status, .. } if status.is_success() == taken), "{error:?}");
        assert_eq!(*calls.lock().unwrap(), 1, "{head}");
        match client.deliver(idempotent_post()).await {
            Ok(()) => assert!(taken),
            Err(error) => assert!(error.permanent && !taken, "{error}"),
        }
    }
}

#[tokio::test]
async fn no_more_calls_than_allowed_are_under_way_over_all_generations() {
    let (other, url) = Other { takes: Duration::from_millis(50), ..Other::default() }.listen().await;
    let process = Process::start(Settings { concurrency: NonZeroUsize::new(2), ..at(&url) }).await;
    let old = process.client();
    process.manager.put("v2", "key-two");
    process.reload(process.config.clone()).await;
    let new = process.client();
    let calls = (0..12).map(|n| if n % 2 == 0 { old.clone() } else { new.clone() });
    let calls = calls.map(|client| async move { client.send(request("GET", "/")).await.unwrap().status() });
    let answered = futures_util::future::join_all(calls).await;
    assert!(answered.iter().all(|status| *status == StatusCode::OK));
    assert_eq!(other.busy.lock().unwrap().1, 2);
}

#[tokio::test]
async fn waiting_for_a_place_counts_against_the_timeout() {
    let (other, url) = Other { takes: Duration::from_secs(60), ..Other::default() }.listen().await;
    let one_place = Settings { concurrency: NonZeroUsize::new(1), timeout_ms: Some(60_000), ..at(&url) };
    let process = Process::start(one_place.clone()).await;
    let patient = process.client();
    let holder = tokio::spawn(async move { patient.send(request("GET", "/")).await });
    while other.calls() == 0 {
        tokio::task::yield_now().await;
    }
    let hasty = Settings { timeout_ms: Some(200), ..one_place };
    process.reload(Arc::new(Config { service: hasty, ..Config::default() })).await;
    let error = process.client().send(request("GET", "/")).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout(_)), "{error:?}");
    assert_eq!(other.calls(), 1, "it had a place");
    holder.abort();
}

#[tokio::test]
async fn a_client_of_an_old_generation_sends_the_new_key() {
    let (other, url) = other().await;
    let process = Process::start(at(&url)).await;
    let old = process.client();
    process.manager.put("v2", "key-two");
    process.reload(process.config.clone()).await;
    old.send(request("GET", "/")).await.unwrap();
    process.client().send(request("GET", "/")).await.unwrap();
    assert_eq!(other.got("authorization"), ["Bearer key-two", "Bearer key-two"]);
}

#[tokio::test]
async fn a_key_is_tried_in_a_build_before_the_others_have_it() {
    let (other, url) = other().await;
    let process = Process::start(at(&url)).await;
    process.manager.put("v2", "key-two");
    let held = process.live.borrow().clone();
    let deadline = Instant::now() + Duration::from_secs(5);
    let load_request = LoadRequest {
        config: process.config.clone(),
        in_service: Some(&held),
        deadline,
        probe_reason: ProbeReason::Scheduled,
    };
    let Ok(LoadOutcome::Built { generation, .. }) = process.loader.load(load_request).await.result else {
        panic!("it is built")
    };
    generation.service.0.send(request("GET", "/")).await.unwrap();
    process.client().send(request("GET", "/")).await.unwrap();
    assert_eq!(other.got("authorization"), ["Bearer key-two", "Bearer key-one"]);
}

#[tokio::test]
async fn a_new_key_does_not_follow_an_old_url() {
    let (old_place, old_url) = other().await;
    let (new_place, new_url) = other().await;
    let process = Process::start(at(&old_url)).await;
    let old = process.client();
    process.manager.put("v2", "key-two");
    process.reload(Arc::new(Config { service: at(&new_url), ..Config::default() })).await;
    old.send(request("GET", "/")).await.unwrap();
    process.client().send(request("GET", "/")).await.unwrap();
    assert_eq!(old_place.got("authorization"), ["Bearer key-one"]);
    assert_eq!(new_place.got("authorization"), ["Bearer key-two"]);
}
