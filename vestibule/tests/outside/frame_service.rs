//! A service with a route for each thing that the frame does, and the answers of its requests.

use axum::{
    Json,
    body::{Body, Bytes, HttpBody},
    extract::{Request, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, response::Parts},
    middleware::map_response,
    response::{AppendHeaders, IntoResponse, Response},
    routing::{any, get, post},
};
use http_body_util::{BodyExt, Full, LengthLimitError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{convert::Infallible, error::Error, future::pending, io, sync::Arc, time::Duration};
use tower::Service as _;
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, ClientAddress, Limits, Live, OpenApiRouter, Package, Problem, RequestId, SecretSet,
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
        let unchanged_too =
            AppendHeaders([(header::CACHE_CONTROL, "private"), (header::CACHE_CONTROL, "No-Transform")]);
        OpenApiRouter::new()
            .route("/length", post(async |body: Bytes| body.len().to_string()))
            .route("/large", post(async |body: Bytes| body.len().to_string()).layer(large))
            .route("/rejection", post(answer_rejection))
            .route("/source", post(answer_source))
            .route("/layered", post(answer_later).layer(map_response(allow_origin)))
            .route("/gives_up", post(give_up))
            .route("/ignores", post("it did not read the body"))
            .route("/orders/{id}", get("an order"))
            .route("/amount", post(async |Json(amount): Json<Amount>| Json(amount)))
            .route("/never", any(never))
            .route("/never/short", get(never).layer(Limits::new().timeout(short)))
            .route("/nap", get(nap))
            .route("/nap/long", get(nap).layer(Limits::new().timeout(long)))
            .route("/panic", get(async || -> () { panic!("at the handler's disco") }))
            .route("/ids", get(ids))
            .route("/client", get(async |client: ClientAddress| client.ip().to_string()))
            .route("/html", get(async move || (html, "a page")))
            .route("/long", get(LONG_TEXT))
            .route("/long/unchanged", get(async move || (unchanged, LONG_TEXT)))
            .route("/long/unchanged/too", get(async move || (unchanged_too, LONG_TEXT)))
            .route("/long/tagged", get(async || ([(header::ETAG, "\"1\"")], LONG_TEXT)))
            .route("/long/tagged/weakly", get(async || ([(header::ETAG, "W/\"1\"")], LONG_TEXT)))
            .route(
                "/long/tagged/encoded",
                get(async || ([(header::ETAG, "\"1\""), (header::CONTENT_ENCODING, "gzip")], LONG_TEXT)),
            )
            .route("/events", get(async || ([(header::CONTENT_TYPE, "text/event-stream")], LONG_TEXT)))
            .route("/gzipped", get(async move || (StatusCode::BAD_GATEWAY, gzipped, [1, 2, 3])))
            .route("/early_hints", get(StatusCode::EARLY_HINTS))
            .route("/switches", get(StatusCode::SWITCHING_PROTOCOLS))
            .route("/busy", any(StatusCode::SERVICE_UNAVAILABLE))
            .route("/busy/in_words", any((StatusCode::SERVICE_UNAVAILABLE, "not now")))
            .route("/part", get((StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, "bytes */47")])))
            .route(
                "/maintenance",
                get(async || (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "120")], "at noon")),
            )
            .route("/pieces", get(async || in_pieces(3)))
            .route("/pieces/measured", get(async || ([(header::CONTENT_LENGTH, "3000000")], in_pieces(3))))
            .route("/trailed", get(async || Body::new(trailed())))
            .route("/no_content", get(async || (StatusCode::NO_CONTENT, "a body")))
            .route("/not_modified", get(async || (StatusCode::NOT_MODIFIED, "a body")))
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

/// Answers a body that cannot be read as its rejection says.
async fn answer_rejection(body: Result<Bytes, BytesRejection>) -> Result<String, Problem> {
    match body {
        Ok(body) => Ok(body.len().to_string()),
        Err(rejection) => Err(Problem::new(rejection.status(), rejection.body_text())),
    }
}

/// Answers a body that cannot be read as axum's `Multipart` does: by the source of the error.
async fn answer_source(body: Body) -> Result<String, Problem> {
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes().len().to_string()),
        Err(error) if error.source().is_some_and(<dyn Error>::is::<LengthLimitError>) => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a part is too long"))
        }
        Err(_) => Err(Problem::internal()),
    }
}

/// Answers a body that cannot be read with a 400 that has headers of its own.
async fn answer_later(body: Result<Bytes, BytesRejection>) -> Response {
    let headers = [(header::RETRY_AFTER, "120"), (header::CONTENT_LANGUAGE, "fi")];
    match body {
        Ok(body) => body.len().to_string().into_response(),
        Err(_) => (StatusCode::BAD_REQUEST, headers, "my\u{f6}hemmin").into_response(),
    }
}

async fn allow_origin(mut response: Response) -> Response {
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// Waits for a body for 50 ms, and then for nothing.
async fn give_up(body: Body) {
    let _ = tokio::time::timeout(Duration::from_millis(50), body.collect()).await;
    pending::<()>().await;
}

/// Returns a body that tells its length, and after its last byte waits for trailers.
fn trailed() -> impl HttpBody<Data = Bytes, Error = Infallible> + Send {
    Full::new(Bytes::from_static(b"a body")).with_trailers(pending::<Option<Result<HeaderMap, Infallible>>>())
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
