//! The frame of every route: what becomes of a body that is too long.

use axum::{
    body::{Body, Bytes},
    extract::Request,
    routing::post,
};
use std::{io, sync::Arc};
use tower::Service as _;
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{Application, Build, BuildError, OpenApiRouter, Package, SecretSet, config::Config, http::Door};

#[derive(SecretSet)]
struct NoSecrets {}

/// A service that returns the length of what it gets.
struct LengthService;

impl Application for LengthService {
    const PACKAGE: Package = Package::new("length", "0");
    type Settings = ();
    type Secrets = NoSecrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().route("/", post(async |body: Bytes| body.len().to_string()))
    }
}

/// Posts a body to a service that takes 3 MB. Returns the answer's status and text.
async fn post_body(body: Body) -> (u16, String) {
    let mut config = Config::default();
    config.server.body_limit = "3 MB".parse().expect("a size");
    let service = Harness::<LengthService>::start(MemoryManager::new(), config).await.expect("it needs nothing");
    let request = Request::post("/").body(body).expect("a request");
    let Ok(answer) = Door::new(service.live()).call(request).await;
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(Body::new(answer.into_body()), 4096).await.expect("a body");
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Returns a body in pieces, which does not tell its length.
fn in_pieces(pieces: usize) -> Body {
    let pieces = (0..pieces).map(|_| Ok::<_, io::Error>(Bytes::from_static(&[b' '; 1_000_000])));
    Body::from_stream(futures_util::stream::iter(pieces))
}

#[tokio::test]
async fn every_body_may_be_as_long_as_the_limit_and_no_longer_also_if_it_does_not_tell_its_length() {
    assert_eq!(post_body(vec![b' '; 3_000_000].into()).await, (200, "3000000".into()));
    assert_eq!(post_body(in_pieces(3)).await, (200, "3000000".into()));
    for body in [vec![b' '; 3_000_001].into(), in_pieces(4)] {
        let (status, text) = post_body(body).await;
        assert_eq!(status, 413);
        assert!(text.contains("length limit exceeded"), "the problem says why: {text}");
    }
}
