//! The routes of a service: those that are open, those that collide, and layers around them.

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::response::Parts,
    middleware::{self, Next},
    routing::get,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tower::Service as _;
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, ConfigSection, OpenApiRouter, Package, SecretSet,
    config::Config,
    exit::{Exit, Report},
    http::Door,
    routes,
};

#[derive(SecretSet)]
struct NoSecrets {}

#[derive(Clone, Default, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
struct Settings {
    /// The name of the shop, which each answer carries.
    name: String,
}

struct Shop {
    name: String,
}

/// Says what is sold.
#[utoipa::path(get, path = "/goods", responses((status = OK)))]
async fn goods() -> &'static str {
    "books"
}

/// Says when the shop is open.
#[utoipa::path(get, path = "/hours", responses((status = OK)))]
async fn hours(State(shop): State<Arc<Shop>>) -> String {
    format!("{} is always open", shop.name)
}

impl Application for Shop {
    const PACKAGE: Package = Package::new("shop", "0");
    type Settings = Settings;
    type Secrets = NoSecrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self { name: cx.settings.name.clone() })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        let plain = Router::new().route("/plain", get("a route of axum"));
        OpenApiRouter::from(plain).routes(routes!(goods))
    }

    fn public_routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().routes(routes!(hours))
    }

    fn layers(shop: &Arc<Self>, routes: Router) -> Router {
        let name = async |State(shop): State<Arc<Self>>, request: Request, next: Next| {
            let mut response = next.run(request).await;
            response.headers_mut().insert("shop", shop.name.parse().expect("it is ASCII"));
            response
        };
        routes.layer(middleware::from_fn_with_state(shop.clone(), name))
    }
}

/// Returns the head and the text of an answer.
async fn ask(harness: &Harness<Shop>, path: &str) -> (Parts, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let (head, body) = Door::new(harness.live()).call(request).await.expect("an answer").into_parts();
    let text = axum::body::to_bytes(Body::new(body), 64 * 1024).await.expect("a body");
    (head, String::from_utf8(text.to_vec()).expect("text"))
}

#[tokio::test]
async fn all_routes_are_served_in_the_layers_and_the_document_has_those_that_are_described() {
    let config = Config { service: Settings { name: "corner".into() }, ..Config::default() };
    let harness = Harness::<Shop>::start(MemoryManager::new(), config).await.unwrap();
    for (path, says) in [("/goods", "books"), ("/hours", "corner is always open"), ("/plain", "a route of axum")] {
        let (head, text) = ask(&harness, path).await;
        assert_eq!((text.as_str(), &head.headers["shop"]), (says, &"corner".parse().unwrap()), "{path}");
    }
    let (_, document) = ask(&harness, "/openapi.json").await;
    for (path, is_described) in [("\"/goods\"", true), ("\"/hours\"", true), ("\"/plain\"", false)] {
        assert_eq!(document.contains(path), is_described, "{path}: {document}");
    }

    let mut hidden = Config { service: Settings { name: "corner".into() }, ..Config::default() };
    hidden.server.openapi = false;
    assert!(harness.reload_with(hidden).await.unwrap());
    assert_eq!(ask(&harness, "/openapi.json").await.0.status, 404);
    assert_eq!(ask(&harness, "/goods").await.0.status, 200);
}

/// A service with one route twice.
struct Twice;

impl Application for Twice {
    const PACKAGE: Package = Package::new("twice", "0");
    type Settings = ();
    type Secrets = NoSecrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().routes(routes!(goods))
    }

    fn public_routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().routes(routes!(goods))
    }
}

#[tokio::test]
async fn a_route_that_is_there_twice_ends_a_start_with_a_report_that_names_it() {
    let report: Report = Harness::<Twice>::start(MemoryManager::new(), Config::default()).await.unwrap_err();
    let text = report.to_string();
    assert_eq!(report.exit(), Exit::Bug);
    assert!(text.contains("the routes of the service") && text.contains("GET /goods"), "{text}");
}
