//! HTTP: the way from a socket to the router of a generation.
//!
//! ```text
//! listener ─► handshake ─► door (takes the generation in service, limits requests in flight)
//!                            └─► its router (problems, panics, body size, timeout) ─► routes
//! ```

pub(crate) mod listen;

pub(crate) mod accept;

pub(crate) mod door;

pub(crate) mod tls;

pub(crate) mod client;
pub(crate) mod problem;

pub use client::ClientCertificate;
pub use door::Door;
pub use problem::Problem;

use crate::config::settings::ServerConfig;
use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, middleware::map_response};
use tower::ServiceBuilder;
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer, timeout::TimeoutLayer};

/// Returns a service's routes under the layers that every request passes. They are built once per generation, so that a
/// reload changes them too.
pub(crate) fn router(routes: Router, config: &ServerConfig) -> Router {
    routes.layer(
        ServiceBuilder::new()
            .layer(map_response(problem::unify))
            .layer(CatchPanicLayer::custom(problem::of_panic))
            .layer(RequestBodyLimitLayer::new(usize::try_from(config.body_limit.as_u64()).unwrap_or(usize::MAX)))
            .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, config.request_timeout))
            // axum's own limit of 2 MB applies only to some extractors. The layer above limits every body.
            .layer(DefaultBodyLimit::disable()),
    )
}
