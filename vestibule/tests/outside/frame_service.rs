//! A service with a route for each thing that the frame does, and the answers of its requests.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::Request,
    http::{StatusCode, header, response::Parts},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{io, sync::Arc, time::Duration};
use tower::Service as _;
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, ClientAddress, Limits, Live, OpenApiRouter, Package, RequestId, SecretSet,
    TraceContext,
    config::{ByteSize, Config},
    http::Door,
};

#[derive(SecretSet)]
pub(crate) struct NoSecrets {}

/// A service without a secret.
pub(crate) struct FrameService;

#[derive(Debug, Serialize, Deserialize)]
struct Amount {
    amount: u32,
}

/// A text that is worth to be compressed.
pub(crate) const LONG_TEXT: &str = include_str!("frame_service.rs");

impl Application for FrameService {
    const PACKAGE: Package = Package::new("framed", "0");
    type Settings = ();
    type Secrets = NoSecrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        let large = Limits::new().body(ByteSize::mb(4));
        let (short, long) = (Duration::from_secs(2), Duration::from_secs(60));
        let nap = async || tokio::time::sleep(Duration::from_secs(30)).await;
        let never = async || std::future::pending::<()>().await;
        let html = [(header::CONTENT_SECURITY_POLICY, "default-src 'self'"), (header::CACHE_CONTROL, "max-age=60")];
        let gzipped = [(header::CONTENT_ENCODING, "gzip"), (header::CONTENT_TYPE, "text/plain")];
        let unchanged = [(header::CACHE_CONTROL, "private, no-transform")];
        OpenApiRouter::new()
            .route("/length", post(async |body: Bytes| body.len().to_string()))
            .route("/large", post(async |body: Bytes| body.len().to_string()).layer(large))
            .route("/ignores", post("it did not read the body"))
            .route("/orders/{id}", get("an order"))
            .route("/amount", post(async |Json(amount): Json<Amount>| Json(amount)))
            .route("/never", get(never))
            .route("/never/short", get(never).layer(Limits::new().timeout(short)))
            .route("/nap", get(nap))
            .route("/nap/long", get(nap).layer(Limits::new().timeout(long)))
            .route("/panic", get(async || -> () { panic!("at the handler's disco") }))
            .route("/ids", get(ids))
            .route("/client", get(async |client: ClientAddress| client.ip().to_string()))
            .route("/html", get(async move || (html, "a page")))
            .route("/long", get(LONG_TEXT))
            .route("/long/unchanged", get(async move || (unchanged, LONG_TEXT)))
            .route("/events", get(async || ([(header::CONTENT_TYPE, "text/event-stream")], LONG_TEXT)))
            .route("/gzipped", get(async move || (StatusCode::BAD_GATEWAY, gzipped, [1, 2, 3])))
            .route("/busy", get(StatusCode::SERVICE_UNAVAILABLE))
            .route(
                "/maintenance",
                get(async || (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "120")], "at noon")),
            )
            .route("/pieces", get(async || in_pieces(3)))
            .route("/pieces/measured", get(async || ([(header::CONTENT_LENGTH, "3000000")], in_pieces(3))))
            .route(
                "/broken",
                get(async || {
                    Body::from_stream(futures_util::stream::iter([Err::<Bytes, _>(io::Error::other("broken"))]))
                }),
            )
    }
}

async fn ids(id: RequestId, trace: TraceContext) -> Json<Value> {
    Json(serde_json::json!({ "id": id.to_string(), "parent": trace.traceparent() }))
}

/// Returns a body in pieces of 1 MB, which does not tell its length.
pub(crate) fn in_pieces(pieces: usize) -> Body {
    let pieces = (0..pieces).map(|_| Ok::<_, io::Error>(Bytes::from_static(&[b' '; 1_000_000])));
    Body::from_stream(futures_util::stream::iter(pieces))
}

/// Returns a body that ends before its last byte, and never goes on.
pub(crate) fn trickle() -> Body {
    use futures_util::StreamExt;
    let first = futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"a part"))]);
    Body::from_stream(first.chain(futures_util::stream::pending()))
}

/// Starts the service.
pub(crate) async fn start(change: impl FnOnce(&mut Config<()>)) -> Live<FrameService> {
    let mut config = Config::default();
    change(&mut config);
    Harness::<FrameService>::start(MemoryManager::new(), config).await.expect("it needs nothing").live()
}

/// Sends a request. Returns the head and the text of the answer.
pub(crate) async fn send(service: &Live<FrameService>, request: Request) -> (Parts, String) {
    let Ok(answer) = Door::new(service.clone()).call(request).await;
    let (head, body) = answer.into_parts();
    let body = axum::body::to_bytes(Body::new(body), 8_000_000).await.expect("a body");
    (head, String::from_utf8_lossy(&body).into_owned())
}

/// Gets a path, with these headers.
pub(crate) async fn get_with(service: &Live<FrameService>, path: &str, headers: &[(&str, &str)]) -> (Parts, String) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(service, request.body(Body::empty()).expect("a request")).await
}

/// Posts a body.
pub(crate) async fn post_body(service: &Live<FrameService>, path: &str, body: Body) -> (u16, String) {
    let (head, text) = send(service, Request::post(path).body(body).expect("a request")).await;
    (head.status.as_u16(), text)
}

/// Returns a member of a problem.
pub(crate) fn member(problem: &str, name: &str) -> Value {
    problem.parse::<Value>().expect("JSON")[name].clone()
}
