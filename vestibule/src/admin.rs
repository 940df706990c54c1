//! The routes of the admin listener: probes, the status and the metrics. They are not for the public.

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

/// The state of the admin routes.
#[derive(Clone)]
struct AdminState {
    status: watch::Receiver<Status>,
    hups: watch::Receiver<u64>,
}

impl AdminState {
    fn snapshot(&self) -> Status {
        self.status.borrow().snapshot(*self.hups.borrow())
    }
}

/// Returns the routes of the admin listener.
pub(crate) fn router(writer: &StatusWriter, hups: watch::Receiver<u64>) -> Router {
    Router::new()
        .route("/livez", get(async || Json(json!({ "status": "live" }))))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(openmetrics))
        .with_state(AdminState { status: writer.read(), hups })
}

async fn readyz(State(admin): State<AdminState>) -> (StatusCode, Json<Readiness>) {
    let readiness = admin.status.borrow().readiness();
    let code = match readiness.status {
        ReadinessState::Ready | ReadinessState::Degraded => StatusCode::OK,
        ReadinessState::Unready => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(readiness))
}

async fn status(State(admin): State<AdminState>) -> Response {
    Json(admin.snapshot()).into_response()
}

async fn openmetrics(State(admin): State<AdminState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::encode(admin.snapshot()))
}
