//! A Vault client, with a server that answers as a test says.

use super::*;
use crate::config::{base_url::BaseUrl, settings::vault::VaultAuth};
use axum::{
    Router,
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use std::{
    future::{IntoFuture, pending},
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::net::TcpListener;

/// A server whose answers a test changes.
#[derive(Default)]
struct FakeServer {
    logins: AtomicUsize,
    /// The number of logins that it answers. It never answers those after them.
    answered: AtomicUsize,
    is_denying: bool,
}

impl FakeServer {
    async fn log_in(&self) -> Response {
        if self.logins.fetch_add(1, Ordering::SeqCst) >= self.answered.load(Ordering::SeqCst) {
            return pending().await;
        }
        r#"{"auth":{"client_token":"t","lease_duration":3600}}"#.into_response()
    }

    fn read(&self) -> Response {
        if self.is_denying {
            return (StatusCode::FORBIDDEN, r#"{"errors":["permission denied"]}"#).into_response();
        }
        let answer =
            r#"{"data":{"data":{"value":"v"},"metadata":{"version":1,"created_time":"2026-01-01T00:00:00Z"}}}"#;
        answer.into_response()
    }

    /// Starts it. Returns a client of it.
    async fn start(self: &Arc<Self>) -> Vault {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = BaseUrl::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let (logins, reads) = (self.clone(), self.clone());
        let router = Router::new()
            .route("/v1/auth/jwt/login", post(async move || logins.log_in().await))
            .route("/v1/kv/data/signing", get(async move || reads.read()))
            .fallback(async || StatusCode::NO_CONTENT);
        tokio::spawn(axum::serve(listener, router).into_future());
        let config = VaultConfig {
            addresses: vec![address],
            auth: VaultAuth::Jwt,
            // Any text will do.
            jwt_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into()),
            ..VaultConfig::default()
        };
        Vault::new(&SecretsConfig { vault: config, ..SecretsConfig::default() })
    }
}

async fn fetch(vault: &Vault) -> Result<Fetched, SourceError> {
    vault.fetch(&SecretId::parse("kv/data/signing").unwrap(), Stage::Current, None).await
}

/// Lets time pass at once. Otherwise the clock runs, as connections need it.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_login_that_hangs_leaves_time_for_a_read_with_the_token_that_still_serves() {
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(1), ..FakeServer::default() });
    let vault = server.start().await;
    fetch(&vault).await.map(drop).unwrap();
    pass(3100).await;
    fetch(&vault).await.map(drop).unwrap();
    assert_eq!(server.logins.load(Ordering::SeqCst), 2, "the token was due");
    pass(500).await;
    let error = fetch(&vault).await.err().expect("the token has ended");
    assert!(matches!(error, SourceError::Unanswered(_)), "{error}");
}

#[tokio::test]
async fn a_path_that_is_denied_for_good_causes_one_login_in_five_minutes_at_most() {
    let server = Arc::new(FakeServer { answered: AtomicUsize::new(9), is_denying: true, ..FakeServer::default() });
    let vault = server.start().await;
    for (seconds, logins) in [(0, 1), (4, 1), (2, 2), (6, 2), (280, 2), (15, 3), (290, 3), (11, 4)] {
        pass(seconds).await;
        let error = fetch(&vault).await.err().expect("a denial");
        assert!(matches!(error, SourceError::Denied(_)), "{error}");
        assert_eq!(server.logins.load(Ordering::SeqCst), logins, "after {seconds} s more");
    }
}

#[test]
fn the_time_in_the_id_of_a_version_is_a_time_and_nothing_else() {
    let texts_at = |time: &str| {
        let metadata = format!(r#"{{"version":1,"created_time":"{time}"}}"#);
        let body = format!(r#"{{"data":{{"data":{{"value":"v"}},"metadata":{metadata}}}}}"#);
        fuzzing::texts(StatusCode::OK, HeaderMap::new(), &body).of_reads
    };
    assert_eq!(texts_at("2026-01-01T00:00:00Z")[0], "1@2026-01-01T00:00:00Z");
    let texts = texts_at("sentinel-in-a-time");
    assert!(!texts.is_empty() && texts.iter().all(|text| !text.contains("sentinel")), "{texts:?}");
}
