//! The routes of the admin listener: a page for people, probes, the status and the metrics. They are not for the public.

use crate::{
    metrics::{MetricsRegistry, exposition_format::ExpositionFormat},
    request_history::RequestHistory,
    status::{
        Status,
        page::{self, StatusPage},
        readiness::{Readiness, ReadinessState},
        writer::StatusWriter,
    },
};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::watch;

/// The state of the admin routes.
#[derive(Clone)]
struct AdminState {
    status: watch::Receiver<Status>,
    hups: watch::Receiver<u64>,
    metrics: Arc<MetricsRegistry>,
    history: Arc<RequestHistory>,
}

/// Returns the routes of the admin listener.
pub(crate) fn router(
    writer: &StatusWriter,
    hups: watch::Receiver<u64>,
    metrics: Arc<MetricsRegistry>,
    history: Arc<RequestHistory>,
) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/livez", get(async || Json(json!({ "status": "live" }))))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(scrape))
        .with_state(AdminState { status: writer.read(), hups, metrics, history })
}

async fn status_page(State(admin): State<AdminState>) -> impl IntoResponse {
    let status = admin.status.borrow().snapshot();
    let page = StatusPage { status: &status, history: &admin.history }.to_string();
    let headers = [
        (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(page))
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
    let mut status = admin.status.borrow().snapshot();
    status.signals.seen = *admin.hups.borrow();
    Json(status).into_response()
}

async fn scrape(State(admin): State<AdminState>, headers: HeaderMap) -> impl IntoResponse {
    let format = ExpositionFormat::accepted(&headers);
    let answer = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")];
    (answer, admin.metrics.encode(format))
}
