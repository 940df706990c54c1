//! The other side of an API key: a server that takes deliveries with an accepted key, or answers as scripted.

pub(crate) mod delivery;
pub(crate) mod rule;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::stack::authority::identity::Identity;
use crate::stack::error::Error;
use crate::stack::tenant::Tenant;
use crate::testing::background_server::BackgroundServer;
use crate::testing::eventually::eventually_within;
use crate::testing::receiver::delivery::Delivery;
use crate::testing::receiver::rule::AnswerRule;

/// The maximum length of a body in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// The limit of [`Receiver::wait_until`].
const TIMEOUT: Duration = Duration::from_secs(60);

/// An HTTP server that takes deliveries. It has a thread of its own, so that a test may block. It ends when this is
/// dropped.
pub struct Receiver {
    server: BackgroundServer,
    scheme: &'static str,
    state: Arc<ReceiverState>,
}

struct ReceiverState {
    accepted: Mutex<AcceptedKeys>,
    rules: Mutex<Vec<AnswerRule>>,
    requests: Mutex<Vec<Delivery>>,
    observer: Mutex<Option<RequestObserver>>,
}

type RequestObserver = Arc<dyn Fn(&Delivery) + Send + Sync>;

/// The keys that a receiver accepts.
#[derive(Clone)]
enum AcceptedKeys {
    List(Vec<String>),
    /// The keys of a credential at the secrets manager, which is asked at each request.
    Credential(Box<Tenant>, String),
}

/// The judgement on a request's key.
enum KeyCheck {
    /// The key is accepted. It belongs to the version with this label, if the receiver accepts those of a credential.
    Accepted(Option<&'static str>),
    Rejected,
}

impl Receiver {
    /// Starts on a free port of this machine. It accepts no key yet.
    pub fn start() -> Result<Self, Error> {
        Self::at(([127, 0, 0, 1], 0).into())
    }

    /// Starts at this address.
    pub fn at(address: SocketAddr) -> Result<Self, Error> {
        Self::listen(address, None)
    }

    /// Starts on a free port of this machine, with TLS and this identity.
    pub fn with_tls(identity: &Identity) -> Result<Self, Error> {
        Self::listen(([127, 0, 0, 1], 0).into(), Some(identity))
    }

    fn listen(address: SocketAddr, identity: Option<&Identity>) -> Result<Self, Error> {
        let state = Arc::new(ReceiverState {
            accepted: Mutex::new(AcceptedKeys::List(Vec::new())),
            rules: Mutex::default(),
            requests: Mutex::default(),
            observer: Mutex::default(),
        });
        let router = Router::new().fallback(receive).with_state(Arc::clone(&state));
        let server = BackgroundServer::start(address, router, identity)
            .map_err(Error::io(format!("start the receiver at {address}")))?;
        let scheme = if identity.is_some() { "https" } else { "http" };
        Ok(Self { server, scheme, state })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Returns the URL for `service.webhook_url`.
    pub fn url(&self) -> String {
        format!("{}://{}/hook", self.scheme, self.address())
    }

    /// Accepts exactly these keys from now on, as `Authorization: Bearer <key>`. A request without one gets 401.
    pub fn accept(&self, keys: impl IntoIterator<Item = impl Into<String>>) {
        *lock(&self.state.accepted) = AcceptedKeys::List(keys.into_iter().map(Into::into).collect());
    }

    /// Accepts the keys of a credential from now on: those that are AWSCURRENT, AWSPENDING or AWSPREVIOUS when a request
    /// comes. A real API that takes part in the rotation does the same.
    pub fn accept_keys_of(&self, tenant: &Tenant, credential: &str) {
        *lock(&self.state.accepted) = AcceptedKeys::Credential(Box::new(tenant.clone()), credential.into());
    }

    /// Replaces the rules. The first rule that matches a request and has requests left decides. The answer is 202 if
    /// there is none.
    pub fn script(&self, rules: impl IntoIterator<Item = AnswerRule>) {
        *lock(&self.state.rules) = rules.into_iter().collect();
    }

    /// Removes every rule.
    pub fn clear(&self) {
        self.script([]);
    }

    /// Calls `observer` with each answered request from now on. No longer remembers requests, because a receiver may live
    /// long.
    pub fn on_request(&self, observer: impl Fn(&Delivery) + Send + Sync + 'static) {
        *lock(&self.state.observer) = Some(Arc::new(observer));
    }

    /// Returns all requests in the order in which they came, with any answer.
    pub fn requests(&self) -> Vec<Delivery> {
        lock(&self.state.requests).clone()
    }

    /// Returns the requests that were answered with success.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.requests().into_iter().filter(Delivery::succeeded).collect()
    }

    /// Waits until the deliveries meet a condition, and returns them.
    ///
    /// # Panics
    /// If they do not within a minute. The message shows all requests.
    #[track_caller]
    pub fn wait_until(&self, condition: impl Fn(&[Delivery]) -> bool) -> impl Future<Output = Vec<Delivery>> {
        eventually_within(TIMEOUT, "the deliveries", async move || {
            let deliveries = self.deliveries();
            if condition(&deliveries) { Ok(deliveries) } else { Err(format!("{:#?}", self.requests())) }
        })
    }
}

/// Shows no keys.
impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address()).finish_non_exhaustive()
    }
}

async fn receive(State(state): State<Arc<ReceiverState>>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let key = take_key(&mut head.headers);
    let check = state.check(key.as_deref()).await;
    let observer = lock(&state.observer).clone();
    let mut delivery = Delivery {
        at: Instant::now(),
        method: head.method,
        path: head.uri.to_string(),
        headers: head.headers,
        body: body.clone(),
        stage: None,
        answered: None,
        key,
    };
    if let KeyCheck::Accepted(stage) = check {
        delivery.stage = stage;
    }
    let Some(observer) = observer else {
        let number = state.remember(delivery);
        let response = state.answer(check, &body).await;
        lock(&state.requests)[number].answered = Some(response.status());
        return response;
    };
    let response = state.answer(check, &body).await;
    delivery.answered = Some(response.status());
    observer(&delivery);
    response
}

/// Removes `Authorization: Bearer <key>`, and returns the key.
fn take_key(headers: &mut HeaderMap) -> Option<String> {
    let value = headers.remove(header::AUTHORIZATION)?;
    Some(value.to_str().ok()?.strip_prefix("Bearer ")?.to_owned())
}

impl ReceiverState {
    async fn check(&self, key: Option<&str>) -> KeyCheck {
        let accepted = lock(&self.accepted).clone();
        let Some(key) = key else { return KeyCheck::Rejected };
        match accepted {
            AcceptedKeys::List(keys) => {
                if keys.iter().any(|accepted| accepted == key) {
                    return KeyCheck::Accepted(None);
                }
            }
            AcceptedKeys::Credential(tenant, credential) => {
                for stage in ["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"] {
                    if tenant.value(&credential, stage).await.is_ok_and(|value| key_in(&value) == key) {
                        return KeyCheck::Accepted(Some(stage));
                    }
                }
            }
        }
        KeyCheck::Rejected
    }

    /// Remembers a request. Returns its number.
    fn remember(&self, delivery: Delivery) -> usize {
        let mut requests = lock(&self.requests);
        requests.push(delivery);
        requests.len() - 1
    }

    async fn answer(&self, check: KeyCheck, body: &[u8]) -> Response {
        if matches!(check, KeyCheck::Rejected) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let scripted = lock(&self.rules).iter_mut().find_map(|rule| rule.apply(body));
        match scripted {
            Some(answer) => answer.response().await,
            None => StatusCode::ACCEPTED.into_response(),
        }
    }
}

/// Returns the key in a secret: `{"api_key": "…"}`, or the bare text.
fn key_in(value: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
    json["api_key"].as_str().unwrap_or(value.trim()).to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::receiver::rule::ScriptedAnswer;

    async fn post(receiver: &Receiver, key: &str, body: &'static str) -> StatusCode {
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = client.build().expect("a client without TLS needs nothing");
        client.post(receiver.url()).bearer_auth(key).body(body).send().await.expect("an answer").status()
    }

    #[tokio::test]
    async fn only_a_request_with_an_accepted_key_is_a_delivery() {
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
            AnswerRule::on(poison, ScriptedAnswer::Status(500)),
            AnswerRule::all(ScriptedAnswer::RetryAfter(429, 3)).times(1),
            AnswerRule::all(ScriptedAnswer::Redirect("http://127.0.0.1:1/".into())).times(1),
        ]);
        for (body, status) in [("poison", 500), ("a", 429), ("poison", 500), ("b", 302), ("c", 202)] {
            assert_eq!(post(&receiver, "key", body).await.as_u16(), status, "{body}");
        }
        receiver.clear();
        assert_eq!(post(&receiver, "key", "poison").await, StatusCode::ACCEPTED);
    }
}
