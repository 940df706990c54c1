//! From a socket to a generation's router.
//!
//! ```text
//! listener ─► handshake ─► door: which generation, is there room ─► its router: problems, panics, time, size ─► routes
//! ```

pub(crate) mod accept;
pub(crate) mod client;
pub(crate) mod door;
pub(crate) mod listen;
pub(crate) mod problem;
pub(crate) mod tls;

pub use client::ClientCertificate;
pub use door::Door;
pub use problem::Problem;

pub(crate) use listen::{Serving, bind, serve};

use crate::config;
use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, middleware::map_response};
use tower::ServiceBuilder;
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer, timeout::TimeoutLayer};

/// A service's routes under what every request passes. Built once a generation, so that a reload changes it too.
pub(crate) fn router(routes: Router, config: &config::ServerConfig) -> Router {
    routes.layer(
        ServiceBuilder::new()
            .layer(map_response(problem::unify))
            .layer(CatchPanicLayer::custom(problem::of_panic))
            .layer(RequestBodyLimitLayer::new(usize::try_from(config.body_limit.as_u64()).unwrap_or(usize::MAX)))
            .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, config.request_timeout))
            // axum's own limit of 2 MB, which only some extractors keep.
            .layer(DefaultBodyLimit::disable()),
    )
}
