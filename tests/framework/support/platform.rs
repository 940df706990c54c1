//! Stand-ins for what a platform gives: an identity, and a proxy.

use super::stand_in::StandIn;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The end of an identity that outlives each test.
const MUCH_LATER: &str = "2100-01-01T00:00:00Z";

/// Returns an identity with this end, as the instance metadata and the agent of a container answer.
fn keys(end: &str) -> String {
    let keys =
        r#""Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "id", "SecretAccessKey": "key", "Token": "token""#;
    format!(r#"{{ {keys}, "Expiration": "{end}" }}"#)
}

/// The texts that a stand-in has seen.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn add(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Returns what was seen so far.
    pub(crate) fn so_far(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An HTTP server on this machine that records. It ends when this is dropped.
pub(crate) struct PlatformService {
    pub(crate) seen: Seen,
    address: String,
    _serving: JoinSet<()>,
}

impl PlatformService {
    /// Starts the instance metadata of EC2: a role with keys. Records the session token of each request.
    pub(crate) async fn metadata_at(address: &str) -> Self {
        let token = || async { ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], "token") };
        let role = "/latest/meta-data/iam/security-credentials/";
        let router = Router::new()
            .route("/latest/api/token", put(token))
            .route(role, get("a-role"))
            .route(&format!("{role}a-role"), get(keys_for_token));
        Self::serve(address, router).await
    }

    /// Starts the agent of a container: keys at `/keys`. Records the token of each request.
    pub(crate) async fn container_agent() -> Self {
        Self::serve("127.0.0.1:0", Router::new().route("/keys", get(keys_for_token))).await
    }

    /// Starts the agent of a container whose keys have ended when it gives them.
    pub(crate) async fn agent_with_ended_keys() -> Self {
        Self::serve("127.0.0.1:0", Router::new().route("/keys", get(keys("2020-01-01T00:00:00Z")))).await
    }

    /// Starts the agent of a container that answers this many requests with 429 before it gives keys.
    pub(crate) async fn overloaded_agent(requests: usize) -> Self {
        let answer = async move |State(seen): State<Seen>, headers: HeaderMap| -> Response {
            if seen.so_far().len() < requests {
                seen.add("429".into());
                return StatusCode::TOO_MANY_REQUESTS.into_response();
            }
            keys_for_token(State(seen), headers).await.into_response()
        };
        Self::serve("127.0.0.1:0", Router::new().route("/keys", get(answer))).await
    }

    /// Starts STS, which gives keys for any token, or answers with this code. Records the body of each request.
    pub(crate) async fn sts(error: Option<&'static str>) -> Self {
        let answer = async move |State(seen): State<Seen>, body: String| -> Response {
            seen.add(body);
            match error {
                None => sts_keys().into_response(),
                Some(code) => (StatusCode::FORBIDDEN, sts_error(code)).into_response(),
            }
        };
        Self::serve("127.0.0.1:0", Router::new().route("/", post(answer))).await
    }

    async fn serve(address: &str, router: Router<Seen>) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let seen = Seen::default();
        let router = router.with_state(seen.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.expect("it serves until the test ends") });
        Self { seen, address, _serving: serving }
    }

    /// Returns its host and port.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Returns the URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn keys_for_token(State(seen): State<Seen>, headers: HeaderMap) -> String {
    let token = headers.get(header::AUTHORIZATION).or(headers.get("x-aws-ec2-metadata-token"));
    seen.add(token.and_then(|token| token.to_str().ok()).unwrap_or_default().to_owned());
    keys(MUCH_LATER)
}

fn sts_keys() -> String {
    let keys = format!(
        "<Credentials><AccessKeyId>id</AccessKeyId><SecretAccessKey>key</SecretAccessKey>\
         <SessionToken>token</SessionToken><Expiration>{MUCH_LATER}</Expiration></Credentials>"
    );
    let result = |operation| format!("<{operation}Result>{keys}</{operation}Result>");
    let name = "AssumeRoleWithWebIdentity";
    format!("<{name}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">{}</{name}Response>", result(name))
}

fn sts_error(code: &str) -> String {
    format!(
        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>as scripted</Message></Error></ErrorResponse>"
    )
}

/// Starts a proxy that refuses every request. Returns it with the first line of each.
pub(crate) async fn refusing_proxy() -> (StandIn, Seen) {
    let seen = Seen::default();
    let recorded = seen.clone();
    let proxy = StandIn::start(move |connection| refuse(connection, recorded.clone())).await;
    (proxy, seen)
}

async fn refuse(mut connection: TcpStream, seen: Seen) {
    let mut request = vec![0; 4096];
    let length = connection.read(&mut request).await.unwrap_or_default();
    let request = String::from_utf8_lossy(&request[..length]);
    seen.add(request.lines().next().unwrap_or_default().to_owned());
    let _ = connection.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
}
