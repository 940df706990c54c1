//! The cost of the door and the frame: calls the same route of a bare router of axum, through the door with metrics, and
//! with an access line too. Nobody formats the line here: that is the log's work.
//!
//! `cargo bench --bench door` prints times; compare their ratio. To count instructions, run the binary that it names
//! under callgrind with `--exact door::logged --sample-count 1 --sample-size N`. Do it for two values of N, and divide
//! the difference of the counts by the difference of the two.

use axum::{
    BoxError, Json, Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    response::Response,
    routing::get,
};
use divan::Bencher;
use serde_json::{Value, json};
use std::sync::Arc;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{Application, Build, BuildError, Live, OpenApiRouter, Package, SecretSet, config::Config, http::Door};

fn main() {
    divan::main();
}

/// A service of one route and no credentials.
struct HelloService;

#[derive(SecretSet)]
struct NoSecrets {}

impl Application for HelloService {
    const PACKAGE: Package = Package::new("hello", "0");
    type Settings = ();
    type Secrets = NoSecrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().route("/", get(hello))
    }
}

async fn hello(_: State<Arc<HelloService>>) -> Json<Value> {
    Json(json!({ "hello": "world" }))
}

/// A log that reads each field of an event, and does nothing with it.
struct SinkLog;

impl Subscriber for SinkLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut SinkVisitor);
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct SinkVisitor;

impl Visit for SinkVisitor {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        std::hint::black_box(value);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Starts the service, and returns a handle to its generation.
async fn live() -> Live<HelloService> {
    Harness::start(MemoryManager::new(), Config::default()).await.expect("nothing can be missing").live()
}

/// Calls the service, and reads the whole response.
async fn call<S, B>(service: &mut S)
where
    S: tower::Service<Request, Response = Response<B>, Error = std::convert::Infallible>,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let request = Request::new(Body::empty());
    let Ok(response) = service.call(request).await;
    let body = axum::body::to_bytes(Body::new(response.into_body()), 1024).await.expect("a body");
    assert_eq!(body.len(), 17);
}

#[divan::bench]
fn bare(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let mut router = Router::new().route("/", get(hello)).with_state(Arc::new(HelloService));
    bencher.bench_local(|| runtime.block_on(call(&mut router)));
}

#[divan::bench]
fn door(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let mut door = Door::new(runtime.block_on(live()));
    bencher.bench_local(|| runtime.block_on(call(&mut door)));
}

#[divan::bench]
fn logged(bencher: Bencher<'_, '_>) {
    let runtime = runtime();
    let mut door = Door::new(runtime.block_on(live()));
    tracing::subscriber::with_default(SinkLog, || {
        bencher.bench_local(|| runtime.block_on(call(&mut door)));
    });
}
