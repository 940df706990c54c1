//! A Secrets Manager that fails as scripted: what no rule matches is passed on to the real one.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::Error;

const JSON: (&str, &str) = ("content-type", "application/x-amz-json-1.1");

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The answer comes, this much later.
    Delay(Duration),
    /// An error in AWS's JSON: the status and the code, as `Status(400, "ThrottlingException")`.
    Status(u16, &'static str),
    /// No answer comes, and the connection stays open.
    BlackHole,
    /// No answer comes, and the connection closes.
    Reset,
    /// The connection closes in the middle of the answer.
    CutBody,
    /// The answer is 200, and no JSON.
    Malformed,
}

/// Which requests a fault hits.
#[derive(Clone, Debug)]
pub struct Rule {
    secret: Option<String>,
    region: Option<String>,
    operation: Option<&'static str>,
    fault: Fault,
    left: usize,
}

impl Rule {
    /// Every request for this secret id.
    pub fn on(secret: impl Into<String>, fault: Fault) -> Self {
        Self { secret: Some(secret.into()), ..Self::all(fault) }
    }

    /// Every request to this Region.
    pub fn region(region: impl Into<String>, fault: Fault) -> Self {
        Self { region: Some(region.into()), ..Self::all(fault) }
    }

    /// Every request.
    pub fn all(fault: Fault) -> Self {
        Self { secret: None, region: None, operation: None, fault, left: usize::MAX }
    }

    /// Those of this operation alone, such as `GetSecretValue`.
    pub fn of(self, operation: &'static str) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// No more than this many of them.
    pub fn times(self, times: usize) -> Self {
        Self { left: times, ..self }
    }

    fn matches(&self, request: &Request) -> bool {
        let Request { secret, region, operation } = request;
        self.left > 0
            && self.secret.as_ref().is_none_or(|wanted| wanted == secret)
            && self.region.as_ref().is_none_or(|wanted| wanted == region)
            && self.operation.is_none_or(|wanted| wanted == operation)
    }
}

/// A manager with a script. It has a thread of its own, so that a test may block, and ends when dropped.
pub struct Manager {
    address: SocketAddr,
    script: Arc<Script>,
    _running: oneshot::Sender<()>,
}

struct Script {
    behind: Behind,
    client: reqwest::Client,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
}

/// The endpoints that requests are passed on to.
enum Behind {
    One(String),
    ByRegion(BTreeMap<String, String>),
}

/// What a request is for. Each may be empty.
struct Request {
    secret: String,
    region: String,
    operation: String,
}

impl Manager {
    /// Starts in front of `behind`, passing everything on.
    pub async fn before(behind: &crate::manager::Manager) -> Result<Self, Error> {
        Self::start(Behind::One(behind.endpoint.clone()))
    }

    /// Starts in front of a manager for each Region. Requests to other Regions are answered with 502.
    pub async fn regions<'a>(
        behind: impl IntoIterator<Item = (&'a str, &'a crate::manager::Manager)>,
    ) -> Result<Self, Error> {
        let behind = behind.into_iter().map(|(region, manager)| (region.into(), manager.endpoint.clone()));
        Self::start(Behind::ByRegion(behind.collect()))
    }

    fn start(behind: Behind) -> Result<Self, Error> {
        let doing = "start the scripted manager";
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(Error::io(doing))?;
        let address = listener.local_addr().map_err(Error::io(doing))?;
        listener.set_nonblocking(true).map_err(Error::io(doing))?;
        let script = Arc::new(Script {
            behind,
            client: reqwest::Client::builder().no_proxy().build().expect("a client without TLS needs nothing"),
            rules: Mutex::default(),
            requests: Mutex::default(),
        });
        let (running, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io(doing))?;
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("it is a listener, and does not block");
                tokio::select! {
                    _ = axum::serve(listener, router).into_future() => (),
                    _ = stopped => (),
                }
            });
            // Requests in black holes never end by themselves.
            runtime.shutdown_background();
        });
        Ok(Self { address, script, _running: running })
    }

    /// For `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the rules. The first that matches a request and has not used up its times decides.
    pub fn script(&self, rules: impl IntoIterator<Item = Rule>) {
        *lock(&self.script.rules) = rules.into_iter().collect();
    }

    /// Drops every rule.
    pub fn clear(&self) {
        self.script([]);
    }

    /// How many requests for this secret id have come, whatever became of them.
    pub fn requests(&self, secret: &str) -> usize {
        lock(&self.script.requests).iter().filter(|request| request.secret == secret).count()
    }

    /// How many requests to this Region have come, whatever became of them.
    pub fn requests_in(&self, region: &str) -> usize {
        lock(&self.script.requests).iter().filter(|request| request.region == region).count()
    }
}

async fn answer(State(script): State<Arc<Script>>, headers: HeaderMap, body: Bytes) -> Response {
    let request = Request::new(&headers, &body);
    let (behind, fault) = (script.behind.endpoint(&request), script.fault(&request));
    lock(&script.requests).push(request);
    match fault {
        None => script.forward(behind, headers, body).await,
        Some(Fault::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            script.forward(behind, headers, body).await
        }
        Some(Fault::Status(status, code)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = json!({ "__type": code, "message": "as scripted" }).to_string();
            (status, [("x-amzn-errortype", code), JSON], body).into_response()
        }
        Some(Fault::BlackHole) => std::future::pending().await,
        // A body that fails at once takes the head with it, which was not sent yet.
        Some(Fault::Reset) => Body::from_stream(stream::once(closed())).into_response(),
        Some(Fault::CutBody) => {
            let start = stream::once(async { Ok(r#"{"ARN": "arn:aws:"#) });
            let end = stream::once(async {
                // Without a pause the start would not be sent at all.
                tokio::time::sleep(Duration::from_millis(20)).await;
                closed().await
            });
            ([("content-length", "1000"), JSON], Body::from_stream(start.chain(end))).into_response()
        }
        Some(Fault::Malformed) => ([JSON], "<html>Welcome!</html>").into_response(),
    }
}

async fn closed() -> io::Result<&'static str> {
    Err(io::ErrorKind::ConnectionReset.into())
}

impl Request {
    fn new(headers: &HeaderMap, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let signature = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // `AWS4-HMAC-SHA256 Credential=<access key>/<date>/<region>/secretsmanager/aws4_request, …`
        let region = signature.and_then(|text| text.split_once("Credential=")?.1.split('/').nth(2));
        // `secretsmanager.GetSecretValue`
        let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
        let operation = target.and_then(|target| target.rsplit('.').next());
        Self {
            secret: body["SecretId"].as_str().unwrap_or_default().into(),
            region: region.unwrap_or_default().into(),
            operation: operation.unwrap_or_default().into(),
        }
    }
}

impl Behind {
    fn endpoint(&self, request: &Request) -> Option<String> {
        match self {
            Self::One(endpoint) => Some(endpoint.clone()),
            Self::ByRegion(endpoints) => endpoints.get(&request.region).cloned(),
        }
    }
}

impl Script {
    fn fault(&self, request: &Request) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let rule = rules.iter_mut().find(|rule| rule.matches(request))?;
        rule.left -= 1;
        Some(rule.fault.clone())
    }

    async fn forward(&self, behind: Option<String>, mut headers: HeaderMap, body: Bytes) -> Response {
        let Some(behind) = behind else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        headers.remove(header::HOST);
        let sent = self.client.post(behind).headers(headers).body(body).send().await;
        match sent {
            Ok(answer) => {
                let (status, headers) = (answer.status(), answer.headers().clone());
                (status, headers, answer.bytes().await.unwrap_or_default()).into_response()
            }
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
