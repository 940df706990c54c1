//! An issuer in the test's process: keys, tokens, and a server of its JWKS.

use crate::config::{AuthConfig, BaseUrl, TokenAlgorithm};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Redirect},
    routing::get,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::oneshot;

pub(super) const ISSUER: &str = "https://issuer.example/";
pub(super) const AUDIENCE: &str = "orders";

/// A key pair of an issuer.
pub(super) struct SigningKey {
    pub(super) id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
}

impl SigningKey {
    pub(super) fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (key, mut jwk) = match algorithm {
            Algorithm::ES256 => {
                let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                let jwk = json!({ "kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y) });
                (EncodingKey::from_ec_der(document.as_ref()), jwk)
            }
            Algorithm::EdDSA => {
                let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
                let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key().as_ref()) });
                (EncodingKey::from_ed_der(document.as_ref()), jwk)
            }
            Algorithm::RS256 => {
                let document = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
                let document = document.unwrap().serialize_der();
                let pair = RsaKeyPair::from_pkcs8(&document).unwrap();
                let public: RsaPublicKeyComponents<Vec<u8>> = pair.public_key().into();
                let jwk = json!({ "kty": "RSA", "n": base64(&public.n), "e": base64(&public.e) });
                // The PKCS#1 key comes after the 26 bytes that PKCS#8 has for this size.
                (EncodingKey::from_rsa_der(&document[26..]), jwk)
            }
            other => panic!("no test has a key for {other:?}"),
        };
        for (name, value) in [("kid", json!(id)), ("use", json!("sig")), ("alg", json!(algorithm))] {
            jwk[name] = value;
        }
        Self { id, algorithm, key, jwk }
    }

    pub(super) fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    pub(super) fn header(&self) -> Header {
        Header { kid: Some(self.id.into()), typ: Some("at+jwt".into()), ..Header::new(self.algorithm) }
    }

    pub(super) fn token(&self) -> String {
        self.sign(&self.header(), &claims())
    }

    pub(super) fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }
}

pub(super) fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// Returns the claims of a token that is valid.
pub(super) fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now() + 600, "scope": "orders:read orders:write" })
}

/// Returns the claims of a valid token, changed.
pub(super) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// Returns a set of keys as an issuer writes it.
pub(super) fn jwks<'a>(keys: impl IntoIterator<Item = &'a SigningKey>) -> Value {
    json!({ "keys": keys.into_iter().map(SigningKey::jwk).collect::<Vec<_>>() })
}

/// A server of one document.
pub(super) struct JwksServer {
    pub(super) url: BaseUrl,
    /// The answer: `None` is 500.
    pub(super) document: Arc<Mutex<Option<String>>>,
    /// The metadata of the issuer. A text is the place to which its URL redirects.
    metadata: Arc<Mutex<Option<Value>>>,
    requests: Arc<AtomicUsize>,
    /// The end of the wait of the next answer, which already has its document.
    held: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

impl JwksServer {
    pub(super) async fn start(document: &Value) -> Self {
        let document = Arc::new(Mutex::new(Some(document.to_string())));
        let requests = Arc::new(AtomicUsize::new(0));
        let held = Arc::new(Mutex::new(None::<oneshot::Receiver<()>>));
        let (served, counted, holding) = (document.clone(), requests.clone(), held.clone());
        let answer = async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let document = served.lock().unwrap().clone();
            let held = holding.lock().unwrap().take();
            if let Some(held) = held {
                let _ = held.await;
            }
            document.ok_or(StatusCode::INTERNAL_SERVER_ERROR)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = BaseUrl::parse(&format!("http://{}/jwks.json", listener.local_addr().unwrap())).unwrap();
        let metadata = Arc::new(Mutex::new(None));
        let described = metadata.clone();
        let describe = async move || match described.lock().unwrap().clone() {
            Some(Value::String(elsewhere)) => Redirect::temporary(&elsewhere).into_response(),
            Some(metadata) => Json::<Value>(metadata).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        };
        let router = Router::new()
            .route("/jwks.json", get(answer))
            .route("/tenant/.well-known/openid-configuration", get(describe));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, document, metadata, requests, held }
    }

    pub(super) fn publish(&self, document: &Value) {
        *self.document.lock().unwrap() = Some(document.to_string());
    }

    pub(super) fn describe(&self, metadata: impl Into<Option<Value>>) {
        *self.metadata.lock().unwrap() = metadata.into();
    }

    /// Returns the name of the issuer that is described here.
    pub(super) fn issuer(&self) -> String {
        format!("http://{}/tenant/", self.url.authority())
    }

    /// Holds the next answer until the sender is dropped. It has the document that is published when its request comes.
    pub(super) fn hold(&self) -> oneshot::Sender<()> {
        let (release, held) = oneshot::channel();
        *self.held.lock().unwrap() = Some(held);
        release
    }

    pub(super) fn fail(&self) {
        *self.document.lock().unwrap() = None;
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub(super) fn config(&self) -> AuthConfig {
        AuthConfig { jwks_url: Some(self.url.clone()), ..config() }
    }
}

/// Returns a configuration without the URL of keys.
pub(super) fn config() -> AuthConfig {
    AuthConfig { issuer: ISSUER.into(), audience: AUDIENCE.into(), ..AuthConfig::default() }
}

/// Returns a configuration that accepts tokens with this algorithm only.
pub(super) fn config_for(algorithm: TokenAlgorithm) -> AuthConfig {
    AuthConfig { algorithms: vec![algorithm], ..config() }
}
