//! A secrets manager that fails as a test wants it to.

mod clock;
pub(crate) mod rule;
pub(crate) mod token_bucket;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::stack::emulator::Emulator;
use crate::stack::error::Error;
use crate::testing::background_server::BackgroundServer;
use crate::testing::scripted_manager::clock::ManagerClock;
use crate::testing::scripted_manager::rule::{FaultRule, ManagerRequest, ScriptedFault, TARGET};

/// The number of requests to the emulator for one that it answers with 500.
const TRIES: usize = 6;

const JSON: (&str, &str) = ("content-type", "application/x-amz-json-1.1");

/// A secrets manager that fails as scripted. It forwards a request to the emulator if no rule matches.
///
/// It has a thread of its own, so that a test may block. It ends when this is dropped.
pub struct ScriptedManager {
    server: BackgroundServer,
    script: Arc<ManagerScript>,
}

struct ManagerScript {
    upstream: Upstream,
    client: reqwest::Client,
    rules: Mutex<Vec<FaultRule>>,
    requests: Mutex<Vec<ManagerRequest>>,
    kept: Mutex<Option<KeptAnswers>>,
}

/// The answers of the emulator that are given again, by the operation and the body of the request.
type KeptAnswers = Arc<tokio::sync::Mutex<BTreeMap<(Option<HeaderValue>, Bytes), KeptAnswer>>>;

/// An answer, and the request's headers, to ask again.
struct KeptAnswer {
    request: HeaderMap,
    answer: Answer,
}

type Answer = (StatusCode, HeaderMap, Bytes);

/// The endpoints to which requests are forwarded.
enum Upstream {
    One(String),
    ByRegion(BTreeMap<String, String>),
}

impl ScriptedManager {
    /// Starts in front of an emulator, without rules.
    pub fn before(emulator: &Emulator) -> Result<Self, Error> {
        Self::start(Upstream::One(emulator.endpoint.clone()))
    }

    /// Starts in front of one emulator per Region. Requests to other Regions are answered with 502.
    pub fn regions<'a>(emulators: impl IntoIterator<Item = (&'a str, &'a Emulator)>) -> Result<Self, Error> {
        let mut endpoints = BTreeMap::new();
        for (region, emulator) in emulators {
            endpoints.insert(region.to_owned(), emulator.endpoint.clone());
        }
        Self::start(Upstream::ByRegion(endpoints))
    }

    fn start(upstream: Upstream) -> Result<Self, Error> {
        let script = Arc::new(ManagerScript {
            upstream,
            client: reqwest::Client::builder().no_proxy().build().expect("a client without TLS needs nothing"),
            rules: Mutex::default(),
            requests: Mutex::default(),
            kept: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        let server = BackgroundServer::start(([127, 0, 0, 1], 0).into(), router, None)
            .map_err(Error::io("start the scripted manager"))?;
        Ok(Self { server, script })
    }

    /// Returns the URL for `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Replaces the rules. The first rule that matches a request and has requests left decides.
    pub fn script(&self, rules: impl IntoIterator<Item = FaultRule>) {
        *lock(&self.script.rules) = rules.into_iter().collect();
    }

    /// Forwards each request once from now on, and answers the same request as the emulator did then. Many processes would
    /// otherwise wait for the emulator, which is written in Python. Call it again whenever a secret has changed, or
    /// [`renew_answers`](Self::renew_answers).
    pub fn keep_answers(&self) {
        *lock(&self.script.kept) = Some(KeptAnswers::default());
    }

    /// Asks the emulator again for each answer that is kept, so that no service waits for it after a secret has changed. It has
    /// one emulator.
    pub async fn renew_answers(&self) -> Result<(), reqwest::Error> {
        let kept = lock(&self.script.kept).clone();
        let (Some(kept), Upstream::One(endpoint)) = (kept, &self.script.upstream) else { return Ok(()) };
        for ((_, body), KeptAnswer { request, answer }) in kept.lock().await.iter_mut() {
            *answer = self.script.ask(endpoint.clone(), request.clone(), body.clone()).await?;
        }
        Ok(())
    }

    /// Removes every rule.
    pub fn clear(&self) {
        self.script([]);
    }

    /// Returns the number of requests for this secret id so far, with any answer.
    pub fn requests(&self, secret: &str) -> usize {
        lock(&self.script.requests).iter().filter(|request| request.secret == secret).count()
    }

    /// Returns the requests so far, with any answer: the operation, the Region and the secret id of each.
    pub fn calls(&self) -> Vec<(String, String, String)> {
        let requests = lock(&self.script.requests);
        let call = |request: &ManagerRequest| {
            let ManagerRequest { secret, region, operation } = request;
            (operation.clone(), region.clone(), secret.clone())
        };
        requests.iter().map(call).collect()
    }

    /// Returns the number of requests to this Region so far, with any answer.
    pub fn requests_in(&self, region: &str) -> usize {
        lock(&self.script.requests).iter().filter(|request| request.region == region).count()
    }
}

async fn answer(State(script): State<Arc<ManagerScript>>, headers: HeaderMap, body: Bytes) -> Response {
    let request = ManagerRequest::new(&headers, &body);
    let (endpoint, fault) = (script.upstream.endpoint(&request), script.fault(&request));
    lock(&script.requests).push(request);
    match fault {
        None => script.forward(endpoint, headers, body).await,
        Some(ScriptedFault::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            script.forward(endpoint, headers, body).await
        }
        Some(ScriptedFault::Status(status, code)) => {
            error(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), code)
        }
        Some(ScriptedFault::ClockAhead(seconds)) => {
            let clock = ManagerClock::ahead(seconds);
            let mut response = if clock.accepts(&headers) {
                script.forward(endpoint, headers, body).await
            } else {
                error(StatusCode::BAD_REQUEST, "InvalidSignatureException")
            };
            response.headers_mut().insert(header::DATE, clock.date());
            response
        }
        Some(ScriptedFault::BlackHole) => std::future::pending().await,
        // The server sends the head with the first part of the body. An error in place of that part leaves nothing to
        // send.
        Some(ScriptedFault::Reset) => Body::from_stream(stream::once(async { connection_reset() })).into_response(),
        Some(ScriptedFault::CutBody) => {
            let start = stream::once(async { Ok(r#"{"ARN": "arn:aws:"#) });
            let end = stream::once(async {
                // Without a pause the start would not be sent at all.
                tokio::time::sleep(Duration::from_millis(20)).await;
                connection_reset()
            });
            ([("content-length", "1000"), JSON], Body::from_stream(start.chain(end))).into_response()
        }
        Some(ScriptedFault::Malformed) => ([JSON], "<html>Welcome!</html>").into_response(),
    }
}

fn error(status: StatusCode, code: &'static str) -> Response {
    let body = json!({ "__type": code, "message": "as scripted" }).to_string();
    (status, [("x-amzn-errortype", code), JSON], body).into_response()
}

fn connection_reset() -> io::Result<&'static str> {
    Err(io::ErrorKind::ConnectionReset.into())
}

impl Upstream {
    fn endpoint(&self, request: &ManagerRequest) -> Option<String> {
        match self {
            Self::One(endpoint) => Some(endpoint.clone()),
            Self::ByRegion(endpoints) => endpoints.get(&request.region).cloned(),
        }
    }
}

impl ManagerScript {
    fn fault(&self, request: &ManagerRequest) -> Option<ScriptedFault> {
        lock(&self.rules).iter_mut().find_map(|rule| rule.apply(request))
    }

    async fn forward(&self, endpoint: Option<String>, headers: HeaderMap, body: Bytes) -> Response {
        let Some(endpoint) = endpoint else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        let kept = lock(&self.kept).clone();
        let Some(kept) = kept else {
            return match self.ask(endpoint, headers, body).await {
                Ok(answer) => answer.into_response(),
                Err(_) => StatusCode::BAD_GATEWAY.into_response(),
            };
        };
        // One request asks at a time, and those that come meanwhile find its answer.
        let mut kept = kept.lock().await;
        let request = (headers.get(TARGET).cloned(), body.clone());
        if let Some(KeptAnswer { answer, .. }) = kept.get(&request) {
            return answer.clone().into_response();
        }
        match self.ask(endpoint, headers.clone(), body).await {
            Ok(answer) => {
                kept.insert(request, KeptAnswer { request: headers, answer: answer.clone() });
                answer.into_response()
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }

    async fn ask(&self, endpoint: String, mut headers: HeaderMap, body: Bytes) -> reqwest::Result<Answer> {
        headers.remove(header::HOST);
        let request = self.client.post(endpoint).headers(headers).body(body);
        let send = || request.try_clone().expect("a body in memory can be sent again").send();
        let mut answer = send().await?;
        // The emulator answers 500 now and then, when it walks its secrets while another request adds one. A Region that no test
        // has scripted to fail must not count as failing.
        for _ in 1..TRIES {
            if answer.status() == StatusCode::INTERNAL_SERVER_ERROR {
                answer = send().await?;
            }
        }
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        // The server writes its own date, which is not older than the answer. The emulator ends each connection, and AWS does not.
        headers.remove(header::DATE);
        headers.remove(header::CONNECTION);
        Ok((status, headers, answer.bytes().await?))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
