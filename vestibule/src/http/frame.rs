//! The frame of every route: one layer that limits the request, catches its panic, and makes its errors problems.

use super::problem::{self, Problem};
use crate::config::settings::ServerConfig;
use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, Request},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::Route,
};
use futures_util::FutureExt;
use http_body_util::Limited;
use std::{convert::Infallible, panic::AssertUnwindSafe, time::Duration};
use tokio::time::timeout;
use tower::{Service, layer::layer_fn, service_fn};

/// Returns a service's routes in the frame. It is built once per generation, so that a reload changes its limits too.
///
/// One function does it all, because each layer of tower costs a move of the request, and some a box.
pub(crate) fn router(routes: Router, config: &ServerConfig) -> Router {
    let (body_limit, request_timeout) = (config.body_limit.as_u64(), config.request_timeout);
    routes.layer(layer_fn(move |mut route: Route| {
        service_fn(move |request| {
            let routed = limit_body(request, body_limit).map(|request| route.call(request));
            in_frame(routed, request_timeout)
        })
    }))
}

/// Awaits the response. Its body is not limited: only the time until it begins.
async fn in_frame(
    routed: Result<impl Future<Output = Result<Response, Infallible>>, Problem>,
    request_timeout: Duration,
) -> Result<Response, Infallible> {
    let response = match routed {
        Err(problem) => problem.into_response(),
        Ok(routed) => match timeout(request_timeout, AssertUnwindSafe(routed).catch_unwind()).await {
            Ok(Ok(Ok(response))) => response,
            // The panic hook has logged the panic.
            Ok(Err(_)) => Problem::internal().into_response(),
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        },
    };
    Ok(if problem::is_other_error(&response) { problem::unify(response).await } else { response })
}

/// Limits the body. Returns a 413 if its announced length is above the limit.
fn limit_body(mut request: Request, limit: u64) -> Result<Request, Problem> {
    let size = request.body().size_hint();
    if size.lower() > limit {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "length limit exceeded"));
    }
    if size.exact() == Some(0) {
        return Ok(request);
    }
    // axum's own limit of 2 MB applies only to some extractors. This one is for every body.
    DefaultBodyLimit::disable().apply(&mut request);
    if size.exact().is_some() {
        // hyper reads no more than the length that the head promised.
        return Ok(request);
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(request.map(|body| Body::new(Limited::new(body, limit))))
}
