//! The admin listener: probes for machines, the status for people. Never for the public.

use crate::status::{
    Status, metrics,
    readiness::{Readiness, ReadinessState},
    writer::StatusWriter,
};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::sync::watch;

#[derive(Clone)]
struct Admin {
    status: watch::Receiver<Status>,
    hups: watch::Receiver<u64>,
}

impl Admin {
    fn now(&self) -> Status {
        self.status.borrow().now(*self.hups.borrow())
    }
}

/// The routes of the admin listener.
pub(crate) fn router(writer: &StatusWriter, hups: watch::Receiver<u64>) -> Router {
    Router::new()
        .route("/livez", get(async || Json(json!({ "status": "live" }))))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(scrape))
        .with_state(Admin { status: writer.read(), hups })
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, Json<Readiness>) {
    let readiness = admin.status.borrow().readiness();
    let code = match readiness.status {
        ReadinessState::Ready | ReadinessState::Degraded => StatusCode::OK,
        ReadinessState::Unready => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(readiness))
}

async fn status(State(admin): State<Admin>) -> Response {
    Json(admin.now()).into_response()
}

async fn scrape(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(admin.now()))
}
