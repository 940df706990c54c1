//! Tests of the whole stack, with a loader and a server of their own.

mod rejected;
mod retry;

use super::*;
use crate::{
    application::{Application, Build, Generation},
    config::{Config, base_url::BaseUrl},
    loader::{LoadOutcome, LoadRequest, LoadScope, Loader},
    openapi::OpenApiRouter,
    package::Package,
    resources::breaker::ProbeReason,
    secrets::{
        id::VersionId,
        kind::Kind,
        lease::{NoCalls, SecretLease},
        version::{SecretValue, SecretValues, Stage},
    },
    testing::{MemoryManager, eventually::eventually},
};
use axum::{Router, body::Body, extract::State, http::StatusCode, response::IntoResponse};
use serde::Serialize;
use std::{
    collections::VecDeque,
    num::{NonZeroU32, NonZeroUsize},
    sync::Mutex,
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vestibule_derive::SecretSet;

/// The id of the key at the manager.
const KEY_ID: &str = "remote";

#[derive(SecretSet)]
struct Secrets {
    remote: Credential<ApiKey>,
}

/// A service with nothing but a client.
struct CallingService(ApiClient);

/// The settings of an `ApiEndpoint`, which itself cannot be deserialized.
#[derive(Clone, Default, Serialize, serde::Deserialize, vestibule::ConfigSection)]
#[serde(default)]
struct Settings {
    /// The URL.
    url: Option<BaseUrl>,
    /// The timeout of a call.
    #[setting(min = 1, max = 100_000)]
    timeout_ms: Option<u64>,
    /// The attempts of a call.
    #[setting(min = 1, max = 10)]
    attempts: Option<NonZeroU32>,
    /// The calls at the same time.
    #[setting(min = 1, max = 10)]
    concurrency: Option<NonZeroUsize>,
    /// The header of the key.
    x_api_key: bool,
}

impl Application for CallingService {
    const PACKAGE: Package = Package::new("caller", "1");
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let Settings { url, timeout_ms, attempts, concurrency, x_api_key } = cx.settings.clone();
        let api = ApiEndpoint::at(url.ok_or_else(|| BuildError::setting("url", "a URL"))?);
        let api = ApiEndpoint {
            timeout: timeout_ms.map(Duration::from_millis).unwrap_or(api.timeout),
            attempts: attempts.unwrap_or(api.attempts),
            concurrency: concurrency.unwrap_or(api.concurrency),
            key_header: if x_api_key { KeyHeader::Named("x-api-key") } else { api.key_header },
            ..api
        };
        Ok(Self(cx.client(&cx.secrets.remote, &api).await?))
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// The other service. It sends the responses of a list, and then 200. It keeps the requests.
#[derive(Clone, Default)]
struct RemoteApi {
    responses: Arc<Mutex<VecDeque<Response<Body>>>>,
    requests: Arc<Mutex<Vec<Request<()>>>>,
    rejected_key: Arc<Mutex<Option<&'static str>>>,
    /// The time that each response takes.
    delay: Duration,
    in_flight: Arc<Mutex<InFlight>>,
}

/// The number of requests in flight: now, and at most so far.
#[derive(Default)]
struct InFlight {
    now: usize,
    most: usize,
}

impl RemoteApi {
    async fn listen(self) -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let router = Router::new().fallback(Self::respond).with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        (self, url)
    }

    async fn respond(State(remote): State<Self>, request: Request<Body>) -> Response<Body> {
        let request = request.map(|_| ());
        let key = header_text(&request, "authorization").or(header_text(&request, "x-api-key")).expect("a key");
        let is_rejected = remote.rejected_key.lock().unwrap().is_some_and(|rejected| key.ends_with(rejected));
        remote.requests.lock().unwrap().push(request);
        {
            let mut in_flight = remote.in_flight.lock().unwrap();
            in_flight.now += 1;
            in_flight.most = in_flight.most.max(in_flight.now);
        }
        tokio::time::sleep(remote.delay).await;
        remote.in_flight.lock().unwrap().now -= 1;
        if is_rejected {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        remote.responses.lock().unwrap().pop_front().unwrap_or_default()
    }

    fn respond_with(&self, responses: impl IntoIterator<Item = impl IntoResponse>) {
        *self.responses.lock().unwrap() = responses.into_iter().map(IntoResponse::into_response).collect();
    }

    fn reject(&self, key: &'static str) {
        *self.rejected_key.lock().unwrap() = Some(key);
    }

    fn calls(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Returns this header of each request that has it.
    fn headers(&self, name: &str) -> Vec<String> {
        self.requests.lock().unwrap().iter().filter_map(|request| header_text(request, name)).collect()
    }
}

fn header_text(request: &Request<()>, name: &str) -> Option<String> {
    Some(request.headers().get(name)?.to_str().expect("text").to_owned())
}

/// A loader, and a task that reloads if a key is rejected, as the reload actor does.
struct ReloadingProcess {
    loader: Arc<Loader<CallingService>>,
    manager: Arc<MemoryManager>,
    config: Arc<Config<Settings>>,
    live: tokio::sync::watch::Sender<Arc<Generation<CallingService>>>,
    reloads: Arc<Mutex<usize>>,
}

impl ReloadingProcess {
    async fn start(settings: Settings) -> Arc<Self> {
        let manager = MemoryManager::with([(KEY_ID, "key-one")]);
        let loader = Arc::new(Loader::<CallingService>::new(manager.clone()));
        let config = Arc::new(Config { service: settings, ..Config::default() });
        let first = loader.first_load(config.clone(), Instant::now() + Duration::from_secs(5)).await;
        let first = Arc::new(first.unwrap_or_else(|report| panic!("{report}")));
        first.resources.publish();
        let live = tokio::sync::watch::Sender::new(first);
        let process = Arc::new(Self { loader, manager, config, live, reloads: Arc::default() });
        tokio::spawn(process.clone().reload_on_request());
        process
    }

    async fn reload_on_request(self: Arc<Self>) {
        loop {
            self.loader.reload_requests.next().await;
            self.loader.reload_requests.reload_started();
            *self.reloads.lock().unwrap() += 1;
            self.reload(self.config.clone()).await;
            self.loader.reload_requests.reload_ended();
        }
    }

    async fn reload(&self, config: Arc<Config<Settings>>) {
        if let Some(generation) = self.load(config).await {
            generation.resources.publish();
            self.live.send_replace(Arc::new(generation));
        }
    }

    /// Loads once. Returns the generation, if there is something new. It is not published.
    async fn load(&self, config: Arc<Config<Settings>>) -> Option<Generation<CallingService>> {
        let in_service = self.live.borrow().clone();
        let deadline = Instant::now() + Duration::from_secs(5);
        let request = LoadRequest {
            config,
            in_service: Some(&in_service),
            deadline,
            probe_reason: ProbeReason::Scheduled,
            scope: LoadScope::All,
        };
        match self.loader.load(request).await.result {
            Ok(LoadOutcome::Built { generation, .. }) => Some(*generation),
            _ => None,
        }
    }

    fn client(&self) -> ApiClient {
        self.live.borrow().service.0.clone()
    }

    fn reloads(&self) -> usize {
        *self.reloads.lock().unwrap()
    }
}

fn at(url: &str) -> Settings {
    Settings { url: BaseUrl::parse(url), ..Settings::default() }
}

async fn remote_api() -> (RemoteApi, String) {
    RemoteApi::default().listen().await
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
    let (remote, url) = remote_api().await;
    let client = ReloadingProcess::start(at(&format!("{url}/base"))).await.client();
    let mut call = request("GET", "/v1/items?page=2");
    call.headers_mut().insert("host", HeaderValue::from_static("elsewhere.example"));
    assert_eq!(client.send(call).await.unwrap().status(), StatusCode::OK);
    assert_eq!(remote.headers("authorization"), ["Bearer key-one"]);
    assert_eq!(remote.headers("user-agent"), ["caller/1"]);
    assert_eq!(remote.headers("host"), [url.trim_start_matches("http://")]);
    assert_eq!(remote.requests.lock().unwrap()[0].uri(), "/base/v1/items?page=2");

    let error = client.send(request("GET", "https://elsewhere.example/?q=private")).await.unwrap_err();
    assert!(matches!(error, CallError::OutsideBaseUrl), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("private"));
    let shown = format!("{client:?}");
    assert!(shown.contains("127.0.0.1") && !shown.contains("base") && !shown.contains("key-one"), "{shown}");
}

#[tokio::test]
async fn a_named_header_carries_the_key_alone() {
    let (remote, url) = remote_api().await;
    let client = ReloadingProcess::start(Settings { x_api_key: true, ..at(&url) }).await.client();
    client.send(request("GET", "/")).await.unwrap();
    assert_eq!((remote.headers("x-api-key"), remote.headers("authorization")), (vec!["key-one".to_owned()], vec![]));
}

fn rejection() -> Rejection {
    let (subject, reason) = (String::new(), String::new());
    Rejection { credential: "remote", subject, version: VersionId::new("v1"), reason, is_of_token: false }
}

#[tokio::test]
async fn the_header_is_marked_as_sensitive() {
    let version = VersionId::new("v1");
    let values = SecretValues::new(
        SecretValue { text: "key-one".into(), version: version.clone(), created: None, lease: None },
        Default::default(),
        None,
    );
    let key = <ApiKey as Kind>::read(&values).unwrap();
    let endpoint = ApiEndpoint::at(BaseUrl::parse("http://localhost/").unwrap());
    let key_to_send = VersionedKey::new(version, Arc::new(key), None, &endpoint, header::AUTHORIZATION);
    let client_key = Arc::new(ClientKey::new(key_to_send, None, rejection(), &Arc::default()));
    let inner = tower::service_fn(async |request: Request<Bytes>| {
        let value = &request.headers()["authorization"];
        assert!(value.is_sensitive(), "HTTP/2 would keep it in its table");
        assert!(!format!("{request:?}").contains("key-one"));
        Ok::<_, CallError>(Response::new(Bytes::copy_from_slice(value.as_bytes())))
    });
    let inner = tower::util::BoxService::new(inner);
    let answer = AddKey::new(inner, client_key).oneshot(request("GET", "/")).await.unwrap();
    assert_eq!(answer.body(), "Bearer key-one");
}

#[tokio::test]
async fn a_key_whose_lease_has_ended_is_not_sent() {
    let values = SecretValues::new(
        SecretValue { text: "key-one".into(), version: VersionId::new("v1"), created: None, lease: None },
        Default::default(),
        None,
    );
    let key = Arc::new(<ApiKey as Kind>::read(&values).unwrap());
    let endpoint = ApiEndpoint::at(BaseUrl::parse("http://localhost/").unwrap());
    for (left, is_sent) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
        let lease = SecretLease::new(left, Arc::new(NoCalls));
        let key = VersionedKey::new(VersionId::new("v1"), key.clone(), Some(lease), &endpoint, header::AUTHORIZATION);
        let client_key = Arc::new(ClientKey::new(key, None, rejection(), &Arc::default()));
        let inner = tower::service_fn(async |_| Ok::<_, CallError>(Response::new(Bytes::new())));
        let answer = AddKey::new(tower::util::BoxService::new(inner), client_key).oneshot(request("GET", "/")).await;
        match answer {
            Ok(_) => assert!(is_sent),
            Err(error) => {
                assert!(
                    !is_sent && error.to_string().contains("the lease of credential `remote` has ended"),
                    "{error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_call_under_way_holds_its_version_of_the_key() {
    let (remote, url) = RemoteApi { delay: Duration::from_secs(1), ..RemoteApi::default() }.listen().await;
    let process = ReloadingProcess::start(at(&url)).await;
    let held = process.live.borrow().credentials.named("remote").unwrap().observer();
    let client = process.client();
    let call = tokio::spawn(async move { client.send(request("POST", "/")).await });
    eventually("the first call", || remote.calls(), |calls| *calls == 1).await;
    process.manager.rotate(KEY_ID, "key-two");
    process.reload(process.config.clone()).await;
    assert!(!call.is_finished() && held.strong_count() > 0, "the old key is on its way");
    call.await.unwrap().unwrap();
    assert_eq!(held.strong_count(), 0);
}

#[tokio::test]
async fn the_error_of_a_failed_call_names_the_host_but_not_the_query() {
    let (_, url) = RemoteApi { delay: Duration::from_secs(60), ..RemoteApi::default() }.listen().await;
    let client = ReloadingProcess::start(Settings { timeout_ms: Some(200), ..at(&url) }).await.client();
    let error = client.send(request("GET", "/?q=private")).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout(_)), "{error:?}");

    let client = ReloadingProcess::start(at("http://127.0.0.1:1")).await.client();
    let error = client.send(request("GET", "/?q=private")).await.unwrap_err();
    assert!(matches!(error, CallError::NotConnected { .. }), "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("127.0.0.1:1") && !shown.contains("private") && !shown.contains("key-one"), "{shown}");
}

#[tokio::test]
async fn a_response_is_bounded_and_a_redirect_is_not_followed() {
    let (remote, url) = remote_api().await;
    let (redirect_target, target_url) = remote_api().await;
    let client = ReloadingProcess::start(at(&url)).await.client();
    remote.respond_with(["x".repeat(1024 * 1024), "x".repeat(1024 * 1024 + 1)]);
    assert_eq!(client.send(request("GET", "/")).await.unwrap().body().len(), 1024 * 1024);
    let error = client.send(request("GET", "/")).await.unwrap_err();
    assert!(matches!(error, CallError::BodyIncomplete { status: StatusCode::OK, .. }), "{error:?}");
    remote.respond_with([(StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, target_url)])]);
    assert_eq!(client.send(request("GET", "/")).await.unwrap().status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(redirect_target.calls(), 0);
}

#[tokio::test]
async fn the_status_of_a_response_counts_though_its_body_breaks_off_or_is_late() {
    for (status_line, stays_open, accepted) in
        [("200 OK", false, true), ("200 OK", true, true), ("500 Oh", false, false)]
    {
        let (url, calls) = half_responses(status_line, stays_open).await;
        let client = ReloadingProcess::start(Settings { timeout_ms: Some(500), ..at(&url) }).await.client();
        let error = client.send(idempotent_post()).await.unwrap_err();
        assert!(
            matches!(&error, CallError::BodyIncomplete { status, .. } if status.is_success() == accepted),
            "{error:?}"
        );
        assert_eq!(*calls.lock().unwrap(), 1, "{status_line}");
        match client.deliver(idempotent_post()).await {
            Ok(()) => assert!(accepted),
            Err(error) => assert!(error.permanent && !accepted, "{error}"),
        }
    }
}

/// Starts a server that sends half of each response, and then closes the connection or goes silent. Returns its URL and
/// the number of requests so far.
async fn half_responses(status_line: &'static str, stays_open: bool) -> (String, Arc<Mutex<usize>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(Mutex::new(0));
    let count = calls.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            let read = connection.read(&mut [0; 1024]).await.expect("a request comes");
            *count.lock().unwrap() += usize::from(read > 0);
            let response = format!("HTTP/1.1 {status_line}\r\ncontent-length: 10\r\n\r\nhalf");
            connection.write_all(response.as_bytes()).await.expect("the client reads");
            if stays_open {
                open.push(connection);
            }
        }
    });
    (url, calls)
}

#[tokio::test]
async fn no_more_calls_than_allowed_are_under_way_over_all_generations() {
    let (remote, url) = RemoteApi { delay: Duration::from_millis(50), ..RemoteApi::default() }.listen().await;
    let process = ReloadingProcess::start(Settings { concurrency: NonZeroUsize::new(2), ..at(&url) }).await;
    let old = process.client();
    process.manager.rotate(KEY_ID, "key-two");
    process.reload(process.config.clone()).await;
    let new = process.client();
    let calls = (0..12).map(|n| if n % 2 == 0 { old.clone() } else { new.clone() });
    let calls = calls.map(|client| async move { client.send(request("GET", "/")).await.unwrap().status() });
    let answered = futures_util::future::join_all(calls).await;
    assert!(answered.iter().all(|status| *status == StatusCode::OK));
    assert_eq!(remote.in_flight.lock().unwrap().most, 2);
}

#[tokio::test]
async fn waiting_for_a_permit_counts_against_the_timeout() {
    let (remote, url) = RemoteApi { delay: Duration::from_secs(60), ..RemoteApi::default() }.listen().await;
    let one_permit = Settings { concurrency: NonZeroUsize::new(1), timeout_ms: Some(60_000), ..at(&url) };
    let process = ReloadingProcess::start(one_permit.clone()).await;
    let first_client = process.client();
    let holder = tokio::spawn(async move { first_client.send(request("GET", "/")).await });
    eventually("a call", || remote.calls(), |calls| *calls > 0).await;
    let short_timeout = Settings { timeout_ms: Some(200), ..one_permit };
    process.reload(Arc::new(Config { service: short_timeout, ..Config::default() })).await;
    let error = process.client().send(request("GET", "/")).await.unwrap_err();
    assert!(matches!(error, CallError::Timeout(_)), "{error:?}");
    assert_eq!(remote.calls(), 1, "it had a permit");
    holder.abort();
}

#[tokio::test]
async fn a_client_of_an_old_generation_sends_the_new_key() {
    let (remote, url) = remote_api().await;
    let process = ReloadingProcess::start(at(&url)).await;
    let old = process.client();
    process.manager.rotate(KEY_ID, "key-two");
    process.reload(process.config.clone()).await;
    old.send(request("GET", "/")).await.unwrap();
    process.client().send(request("GET", "/")).await.unwrap();
    assert_eq!(remote.headers("authorization"), ["Bearer key-two", "Bearer key-two"]);
}

#[tokio::test]
async fn a_build_uses_the_new_key_before_other_clients_do() {
    let (remote, url) = remote_api().await;
    let process = ReloadingProcess::start(at(&url)).await;
    process.manager.rotate(KEY_ID, "key-two");
    let generation = process.load(process.config.clone()).await.expect("there is a new key");
    generation.service.0.send(request("GET", "/")).await.unwrap();
    process.client().send(request("GET", "/")).await.unwrap();
    assert_eq!(remote.headers("authorization"), ["Bearer key-two", "Bearer key-one"]);
}

#[tokio::test]
async fn a_new_key_does_not_follow_an_old_url() {
    let (old_place, old_url) = remote_api().await;
    let (new_place, new_url) = remote_api().await;
    let process = ReloadingProcess::start(at(&old_url)).await;
    let old = process.client();
    process.manager.rotate(KEY_ID, "key-two");
    process.reload(Arc::new(Config { service: at(&new_url), ..Config::default() })).await;
    old.send(request("GET", "/")).await.unwrap();
    process.client().send(request("GET", "/")).await.unwrap();
    assert_eq!(old_place.headers("authorization"), ["Bearer key-one"]);
    assert_eq!(new_place.headers("authorization"), ["Bearer key-two"]);
}
