//! Tests of tokens, of the issuer's keys, and of the layer around routes.

mod answers;
mod issuer;
mod keys;
mod tokens;

use self::issuer::{AUDIENCE, JwksServer, SigningKey, claims, claims_with, config, config_for, jwks, now};
use super::{
    access_token::AccessToken,
    authenticator::{Authenticator, AuthenticatorParts, authenticate},
    key_set::KeySet,
    metrics::AuthMetrics,
    scope::RequireScope,
    token::{MAX_TOKEN, TokenFault, TokenRules},
};
use crate::{
    blocking_reads::FileReads,
    config::{AudienceClaim, AuthConfig, TokenAlgorithm},
    exit::{Exit, Fault},
    metrics::{MetricsRegistry, exposition_format::ExpositionFormat},
    testing::eventually::eventually,
};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    middleware,
    routing::get,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tower::ServiceExt;

fn set(document: &Value) -> KeySet {
    KeySet::parse(document.to_string().as_bytes()).expect("it has a key")
}

/// An authenticator, and the page of its metrics.
struct Guarded {
    authenticator: Arc<Authenticator>,
    registry: MetricsRegistry,
}

impl Guarded {
    async fn open(config: &AuthConfig) -> Result<Self, Fault> {
        let registry = MetricsRegistry::new("svc");
        let metrics = AuthMetrics::register(&registry);
        let deadline = Instant::now() + Duration::from_secs(5);
        let files = &FileReads::default();
        let parts = AuthenticatorParts { config, in_service: None, metrics: &metrics, deadline, files };
        Ok(Self { authenticator: Authenticator::open(parts).await?.expect("it is on"), registry })
    }

    /// Sends a request to a route that shows its subject.
    async fn get(&self, headers: &[(header::HeaderName, HeaderValue)]) -> (StatusCode, HeaderMap) {
        let whoami = async |token: AccessToken, headers: HeaderMap| {
            assert!(!format!("{token:?} {headers:?}").contains("eyJ"), "a token can be printed");
            token.subject().to_owned()
        };
        let routes = Router::new()
            .route("/", get(whoami))
            .route("/admin", get(async || "").layer(RequireScope::new("orders:admin")))
            .layer(middleware::from_fn_with_state(self.authenticator.clone(), authenticate));
        let path = if headers.iter().any(|(name, _)| name == "x-admin") { "/admin" } else { "/" };
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, value.clone());
        }
        let response = routes.oneshot(request).await.unwrap();
        (response.status(), response.headers().clone())
    }

    async fn status(&self, token: &str) -> u16 {
        self.get(&[bearer(token)]).await.0.as_u16()
    }

    fn metrics(&self) -> String {
        self.registry.encode(ExpositionFormat::PrometheusText)
    }

    /// Waits until the keys were fetched this many times.
    async fn fetched(&self, times: usize) {
        let wanted = format!("vestibule_auth_key_fetches_total{{outcome=\"fetched\"}} {times}");
        eventually(&wanted, || self.metrics(), |metrics| metrics.contains(&wanted)).await;
    }
}

fn bearer(token: &str) -> (header::HeaderName, HeaderValue) {
    (header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())
}

/// Lets this time pass at once.
async fn pass(time: Duration) {
    // A task that was only spawned has set no timer yet.
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
