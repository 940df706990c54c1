//! An issuer of tokens: it serves its keys, and signs.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::stack::authority::identity::Identity;
use crate::stack::error::Error;
use crate::stack::random::random;
use crate::testing::background_server::BackgroundServer;

/// The audience of its tokens.
const AUDIENCE: &str = "local";

/// The name of an issuer that does not describe itself.
const NAME: &str = "urn:devstack";

/// The lifetime of a token, in seconds.
const LIFETIME: u64 = 60 * 60;

/// An issuer of tokens (OAuth 2), with keys of its own. It has a thread of its own, and ends when this is dropped.
///
/// It signs for everybody on this machine who asks: `POST /token?subject=ada&scope=read`. `POST /rotate` replaces its key.
pub struct TokenIssuer {
    server: BackgroundServer,
    scheme: &'static str,
    state: Arc<IssuerState>,
}

struct IssuerState {
    /// Its URL, if it describes itself. Else it is [`NAME`].
    described: OnceLock<String>,
    key: Mutex<CurrentKey>,
    /// `None` if it answers with its keys.
    outage: Mutex<Option<StatusCode>>,
}

/// The key with which it signs now.
struct CurrentKey {
    id: String,
    private: EncodingKey,
}

#[derive(Deserialize)]
struct TokenQuery {
    subject: String,
    #[serde(default)]
    scope: String,
}

impl TokenIssuer {
    /// Starts on a free port of this machine.
    pub fn start() -> Result<Self, Error> {
        Self::listen(None)
    }

    /// Starts on a free port of this machine, with TLS and this identity.
    pub fn with_tls(identity: &Identity) -> Result<Self, Error> {
        Self::listen(Some(identity))
    }

    /// Starts as [`with_tls`](Self::with_tls) does. Its name is its URL, at which it describes itself.
    pub fn with_metadata(identity: &Identity) -> Result<Self, Error> {
        let issuer = Self::listen(Some(identity))?;
        let _ = issuer.state.described.set(issuer.url());
        Ok(issuer)
    }

    fn listen(identity: Option<&Identity>) -> Result<Self, Error> {
        let state = Arc::new(IssuerState {
            described: OnceLock::new(),
            key: Mutex::new(CurrentKey::generate()),
            outage: Mutex::default(),
        });
        let router = Router::new()
            .route("/jwks.json", get(answer_keys))
            .route("/.well-known/openid-configuration", get(answer_metadata))
            .route("/token", post(answer_token))
            .route("/rotate", post(answer_rotation))
            .with_state(Arc::clone(&state));
        let server = BackgroundServer::start(([127, 0, 0, 1], 0).into(), router, identity)
            .map_err(Error::io("start the issuer of tokens"))?;
        let scheme = if identity.is_some() { "https" } else { "http" };
        Ok(Self { server, scheme, state })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address())
    }

    /// Returns the variables with which a service accepts its tokens.
    pub fn env(&self) -> Vec<(String, String)> {
        let settings = self.settings().into_iter();
        settings.map(|(name, value)| (format!("APP_AUTH__{}", name.to_uppercase()), value)).collect()
    }

    /// Returns the section `[auth]` with which a service accepts its tokens, as TOML.
    pub fn section(&self) -> String {
        let lines = self.settings().into_iter().map(|(name, value)| format!("{name} = \"{value}\"\n"));
        format!("[auth]\n{}", lines.collect::<String>())
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![("issuer", self.state.issuer().to_owned()), ("audience", AUDIENCE.to_owned())];
        if self.state.described.get().is_none() {
            settings.push(("jwks_url", format!("{}/jwks.json", self.url())));
        }
        settings
    }

    /// Signs a token for this subject, with these scopes.
    pub fn token(&self, subject: &str, scope: &str) -> String {
        self.state.sign(json!({ "sub": subject, "scope": scope }))
    }

    /// Signs a token with these claims too.
    pub fn token_with(&self, claims: Value) -> String {
        self.state.sign(claims)
    }

    /// Replaces the key. Tokens of the old one are void for a service that has taken up the new one.
    pub fn rotate(&self) {
        *lock(&self.state.key) = CurrentKey::generate();
    }

    /// Answers every request for its keys with this status, or with the keys again.
    pub fn fail(&self, status: Option<StatusCode>) {
        *lock(&self.state.outage) = status;
    }
}

impl CurrentKey {
    fn generate() -> Self {
        let pair = rcgen::KeyPair::generate().expect("there is randomness");
        Self { id: random(), private: EncodingKey::from_ec_der(&pair.serialize_der()) }
    }
}

impl IssuerState {
    fn issuer(&self) -> &str {
        self.described.get().map_or(NAME, String::as_str)
    }

    fn sign(&self, mut claims: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let defaults = [
            ("iss", json!(self.issuer())),
            ("aud", json!(AUDIENCE)),
            ("sub", json!("developer")),
            ("iat", json!(now)),
            ("exp", json!(now + LIFETIME)),
        ];
        for (name, value) in defaults {
            if claims.get(name).is_none() {
                claims[name] = value;
            }
        }
        let key = lock(&self.key);
        let header = Header { kid: Some(key.id.clone()), typ: Some("at+jwt".into()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &key.private).expect("the key is one for ES256")
    }
}

async fn answer_keys(State(state): State<Arc<IssuerState>>) -> Response {
    if let Some(status) = *lock(&state.outage) {
        return status.into_response();
    }
    let key = lock(&state.key);
    let jwk = Jwk::from_encoding_key(&key.private, Algorithm::ES256).expect("the key is one for ES256");
    let mut jwk = serde_json::to_value(jwk).expect("a key is JSON");
    jwk["kid"] = json!(key.id);
    jwk["use"] = json!("sig");
    Json(json!({ "keys": [jwk] })).into_response()
}

async fn answer_metadata(State(state): State<Arc<IssuerState>>) -> Response {
    match state.described.get() {
        Some(url) => Json(json!({ "issuer": url, "jwks_uri": format!("{url}/jwks.json") })).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn answer_token(State(state): State<Arc<IssuerState>>, Query(query): Query<TokenQuery>) -> String {
    state.sign(json!({ "sub": query.subject, "scope": query.scope }))
}

async fn answer_rotation(State(state): State<Arc<IssuerState>>) -> StatusCode {
    *lock(&state.key) = CurrentKey::generate();
    StatusCode::NO_CONTENT
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer").field("address", &self.address()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
