//! The other side of an API key: takes what a service delivers, from whoever brings an accepted key, or answers as
//! scripted.

mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::{Error, Identity, Tenant};

/// The most bytes of a body that are taken.
const MOST: usize = 1024 * 1024;

/// How long [`Receiver::until`] waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is answered to who brings an accepted key, in place of 202.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This status.
    Status(u16),
    /// This status, and `Retry-After` with so many seconds.
    RetryAfter(u16, u64),
    /// 302, to there.
    Redirect(String),
    /// 202, this much later.
    Delay(Duration),
    /// Nothing, and the connection stays open.
    BlackHole,
    /// Nothing, and the connection closes.
    Reset,
}

type Wanted = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;
type Told = Arc<dyn Fn(&Delivery) + Send + Sync>;

/// Which requests get another answer.
#[derive(Clone)]
pub struct Rule {
    body: Option<Wanted>,
    answer: Answer,
    left: usize,
}

impl Rule {
    /// Every request.
    pub fn all(answer: Answer) -> Self {
        Self { body: None, answer, left: usize::MAX }
    }

    /// Those with such a body.
    pub fn on(body: impl Fn(&[u8]) -> bool + Send + Sync + 'static, answer: Answer) -> Self {
        Self { body: Some(Arc::new(body)), ..Self::all(answer) }
    }

    /// No more than this many of them.
    pub fn times(self, times: usize) -> Self {
        Self { left: times, ..self }
    }
}

/// A request that came.
#[derive(Clone)]
pub struct Delivery {
    /// When it had come whole.
    pub at: Instant,
    /// `POST`, say.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Without what bears the key.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The label of the version at the manager whose key it bears, where such keys are accepted.
    pub stage: Option<&'static str>,
    /// What was answered; none: nothing, or not yet.
    pub answered: Option<StatusCode>,
    key: Option<String>,
}

impl Delivery {
    /// Whether it came with this key.
    pub fn bears(&self, key: &str) -> bool {
        self.key.as_deref() == Some(key)
    }

    /// The body as JSON, null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header as text, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn taken(&self) -> bool {
        self.answered.is_some_and(|status| status.is_success())
    }
}

/// Never the key.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, headers, body, answered, .. } = self;
        let body = String::from_utf8_lossy(body);
        write!(f, "{method} {path} {headers:?} {body} => {answered:?}")
    }
}

/// Whose keys are accepted.
#[derive(Clone)]
enum Accepted {
    Keys(Vec<String>),
    /// Those of a secret at the manager, asked at each request.
    Held(Box<Tenant>, String),
}

/// Why a key is accepted.
#[derive(Clone, Copy)]
struct By {
    stage: Option<&'static str>,
}

/// An HTTP server that takes deliveries. It has a thread of its own, so that a test may block, and ends when dropped.
pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    desk: Arc<Desk>,
    _running: oneshot::Sender<()>,
}

struct Desk {
    accepted: Mutex<Accepted>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Delivery>>,
    told: Mutex<Option<Told>>,
}

impl Receiver {
    /// Starts on a free port of this machine. No key is accepted yet.
    pub fn start() -> Result<Self, Error> {
        Self::at(([127, 0, 0, 1], 0).into())
    }

    /// Starts there.
    pub fn at(address: SocketAddr) -> Result<Self, Error> {
        Self::listen(address, None)
    }

    /// Starts on a free port of this machine, with TLS, as this server.
    pub fn with_tls(identity: &Identity) -> Result<Self, Error> {
        Self::listen(([127, 0, 0, 1], 0).into(), Some(tls::acceptor(identity)))
    }

    fn listen(address: SocketAddr, tls: Option<TlsAcceptor>) -> Result<Self, Error> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let doing = format!("start the receiver at {address}");
        let failed = |source| Error::io(&doing)(source);
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let desk = Arc::new(Desk {
            accepted: Mutex::new(Accepted::Keys(Vec::new())),
            rules: Mutex::default(),
            requests: Mutex::default(),
            told: Mutex::default(),
        });
        let (running, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let router = Router::new().fallback(receive).with_state(Arc::clone(&desk));
        std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("it is a listener, and does not block");
                let serving = async {
                    match tls {
                        Some(acceptor) => axum::serve(tls::TlsListener { listener, acceptor }, router).await,
                        None => axum::serve(listener, router).await,
                    }
                };
                tokio::select! {
                    _ = serving => (),
                    _ = stopped => (),
                }
            });
            // Requests in black holes never end by themselves.
            runtime.shutdown_background();
        });
        Ok(Self { address, scheme, desk, _running: running })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `service.webhook_url`.
    pub fn url(&self) -> String {
        format!("{}://{}/hook", self.scheme, self.address)
    }

    /// From now on exactly these keys are accepted, as `Authorization: Bearer <key>`; what comes without one gets 401.
    pub fn accept(&self, keys: impl IntoIterator<Item = impl Into<String>>) {
        *lock(&self.desk.accepted) = Accepted::Keys(keys.into_iter().map(Into::into).collect());
    }

    /// From now on what the manager has of this credential is accepted: AWSCURRENT, AWSPENDING and AWSPREVIOUS, as they
    /// are when a request comes. So does another side that takes part in the rotation.
    pub fn accept_held(&self, tenant: &Tenant, credential: &str) {
        *lock(&self.desk.accepted) = Accepted::Held(Box::new(tenant.clone()), credential.into());
    }

    /// Replaces the rules. The first that matches a request and has not used up its times decides; without one the
    /// answer is 202.
    pub fn script(&self, rules: impl IntoIterator<Item = Rule>) {
        *lock(&self.desk.rules) = rules.into_iter().collect();
    }

    /// Drops every rule.
    pub fn clear(&self) {
        self.script([]);
    }

    /// From now on each request is told when it is answered, and no longer remembered: a receiver may live long.
    pub fn tell(&self, told: impl Fn(&Delivery) + Send + Sync + 'static) {
        *lock(&self.desk.told) = Some(Arc::new(told));
    }

    /// All requests in the order in which they came, whatever was answered.
    pub fn requests(&self) -> Vec<Delivery> {
        lock(&self.desk.requests).clone()
    }

    /// Those that were answered with success.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.requests().into_iter().filter(Delivery::taken).collect()
    }

    /// Waits until `enough` says so of the deliveries, and returns them.
    ///
    /// # Panics
    /// With all requests, after a minute.
    #[track_caller]
    pub fn until(&self, enough: impl Fn(&[Delivery]) -> bool) -> impl Future<Output = Vec<Delivery>> {
        let (caller, start) = (std::panic::Location::caller(), Instant::now());
        async move {
            loop {
                let deliveries = self.deliveries();
                if enough(&deliveries) {
                    return deliveries;
                }
                assert!(start.elapsed() < PATIENCE, "what {caller} waits for did not come: {:#?}", self.requests());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Never the keys.
impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn receive(State(desk): State<Arc<Desk>>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MOST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let borne = head.headers.remove(header::AUTHORIZATION);
    let key = borne.and_then(|value| Some(value.to_str().ok()?.strip_prefix("Bearer ")?.to_owned()));
    let accepted = desk.accepts(key.as_deref()).await;
    let told = lock(&desk.told).clone();
    let delivery = Delivery {
        at: Instant::now(),
        method: head.method,
        path: head.uri.to_string(),
        headers: head.headers,
        body: body.clone(),
        stage: accepted.and_then(|by| by.stage),
        answered: None,
        key,
    };
    let number = told.is_none().then(|| desk.note(delivery.clone()));
    let response = match accepted {
        Some(_) => desk.answer(&body).await,
        None => StatusCode::UNAUTHORIZED.into_response(),
    };
    match (number, told) {
        (Some(number), _) => desk.answered(number, response.status()),
        (None, Some(tell)) => tell(&Delivery { answered: Some(response.status()), ..delivery }),
        (None, None) => (),
    }
    response
}

impl Desk {
    async fn accepts(&self, key: Option<&str>) -> Option<By> {
        let accepted = lock(&self.accepted).clone();
        let key = key?;
        match accepted {
            Accepted::Keys(keys) => keys.iter().any(|accepted| accepted == key).then_some(By { stage: None }),
            Accepted::Held(tenant, credential) => {
                for stage in ["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"] {
                    if tenant.value(&credential, stage).await.is_ok_and(|value| bare(&value) == key) {
                        return Some(By { stage: Some(stage) });
                    }
                }
                None
            }
        }
    }

    /// Returns its number.
    fn note(&self, delivery: Delivery) -> usize {
        let mut requests = lock(&self.requests);
        requests.push(delivery);
        requests.len() - 1
    }

    fn answered(&self, number: usize, status: StatusCode) {
        lock(&self.requests)[number].answered = Some(status);
    }

    async fn answer(&self, body: &[u8]) -> Response {
        let status = |status| StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match self.rule(body) {
            None => StatusCode::ACCEPTED.into_response(),
            Some(Answer::Status(code)) => status(code).into_response(),
            Some(Answer::RetryAfter(code, seconds)) => {
                (status(code), [(header::RETRY_AFTER, seconds.to_string())]).into_response()
            }
            Some(Answer::Redirect(to)) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
            Some(Answer::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                StatusCode::ACCEPTED.into_response()
            }
            Some(Answer::BlackHole) => std::future::pending().await,
            // A body that fails at once takes the head with it, which was not sent yet.
            Some(Answer::Reset) => {
                let closed = async { Err::<&str, _>(io::Error::from(io::ErrorKind::ConnectionReset)) };
                (StatusCode::BAD_GATEWAY, Body::from_stream(stream::once(closed))).into_response()
            }
        }
    }

    fn rule(&self, body: &[u8]) -> Option<Answer> {
        let mut rules = lock(&self.rules);
        let matches = |rule: &&mut Rule| rule.left > 0 && rule.body.as_ref().is_none_or(|wanted| wanted(body));
        let rule = rules.iter_mut().find(matches)?;
        rule.left -= 1;
        Some(rule.answer.clone())
    }
}

/// The key of a secret: the bare text, or `{"api_key": "…"}`.
fn bare(value: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
    json["api_key"].as_str().unwrap_or(value.trim()).to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn post(receiver: &Receiver, key: &str, body: &'static str) -> StatusCode {
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = client.build().expect("a client without TLS needs nothing");
        client.post(receiver.url()).bearer_auth(key).body(body).send().await.expect("an answer").status()
    }

    #[tokio::test]
    async fn only_who_brings_an_accepted_key_delivers() {
        let receiver = Receiver::start().unwrap();
        assert_eq!(post(&receiver, "sentinel-one", "early").await, StatusCode::UNAUTHORIZED);
        receiver.accept(["sentinel-one", "sentinel-two"]);
        assert_eq!(post(&receiver, "sentinel-one", "a").await, StatusCode::ACCEPTED);
        receiver.accept(["sentinel-two"]);
        assert_eq!(post(&receiver, "sentinel-one", "late").await, StatusCode::UNAUTHORIZED);
        assert_eq!(post(&receiver, "sentinel-two", "b").await, StatusCode::ACCEPTED);
        let deliveries = receiver.deliveries();
        assert_eq!(deliveries.iter().map(|one| &one.body[..]).collect::<Vec<_>>(), [b"a", b"b"]);
        assert!(deliveries[0].bears("sentinel-one") && deliveries[1].bears("sentinel-two"));
        assert_eq!(receiver.requests().len(), 4);
        let shown = format!("{receiver:?} {:?}", receiver.requests());
        assert!(!shown.contains("sentinel-"), "{shown}");
    }

    #[tokio::test]
    async fn the_first_rule_that_matches_and_is_not_used_up_decides() {
        let receiver = Receiver::start().unwrap();
        receiver.accept(["key"]);
        let poison = |body: &[u8]| body == b"poison";
        receiver.script([
            Rule::on(poison, Answer::Status(500)),
            Rule::all(Answer::RetryAfter(429, 3)).times(1),
            Rule::all(Answer::Redirect("http://127.0.0.1:1/".into())).times(1),
        ]);
        for (body, status) in [("poison", 500), ("a", 429), ("poison", 500), ("b", 302), ("c", 202)] {
            assert_eq!(post(&receiver, "key", body).await.as_u16(), status, "{body}");
        }
        receiver.clear();
        assert_eq!(post(&receiver, "key", "poison").await, StatusCode::ACCEPTED);
    }
}
