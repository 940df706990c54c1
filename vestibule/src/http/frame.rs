//! The frame of every route: one layer that limits the request, catches its panic, and makes its errors problems. It
//! also has what each response gets: the request's id, and the headers for security.

use super::{
    client_address::TrustedProxies,
    problem::{self, Problem},
    request_body::RequestBody,
    request_id,
    request_metrics::RequestMetrics,
    request_record::{BodyState, RequestRecord},
};
use crate::config::settings::ServerConfig;
use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, MatchedPath, Request},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::Route,
};
use futures_util::{FutureExt, future::Either};
use pin_project_lite::pin_project;
use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service, layer::layer_fn, service_fn};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate, SizeAbove},
    },
};

/// The smallest body that is compressed, in bytes. A smaller one fits into a packet or two as it is.
const MIN_COMPRESSED: u16 = 1024;

/// The headers that each response has, unless its route has set them. They suit an API: a browser that shows a response
/// as a page loads nothing for it, and nothing keeps it.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// The header for connections with TLS: a browser does not use plain HTTP at this host for a year.
const STRICT_TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// The frame of one generation's requests. It is made with the generation, so that a reload changes its limits too.
pub(crate) struct Frame {
    pub(super) metrics: Arc<RequestMetrics>,
    generation: u64,
    body_limit: u64,
    timeout: Duration,
    compression: bool,
    proxies: TrustedProxies,
}

impl Frame {
    pub(crate) fn new(config: &ServerConfig, generation: u64, metrics: &Arc<RequestMetrics>) -> Arc<Self> {
        Arc::new(Self {
            metrics: metrics.clone(),
            generation,
            body_limit: config.body_limit.as_u64(),
            timeout: config.request_timeout,
            compression: config.compression,
            proxies: TrustedProxies::of(config),
        })
    }

    /// Returns a service's routes in this frame.
    ///
    /// One layer does it all, because each layer of tower costs a move of the request, and some a box.
    pub(crate) fn router(&self, routes: Router) -> Router {
        let compression = self.compression;
        routes.layer(layer_fn(move |mut route: Route| {
            service_fn(move |mut request: Request| {
                let record = RequestRecord::of(&request);
                if let Some(path) = request.extensions().get::<MatchedPath>() {
                    let _ = record.route.set(path.clone());
                }
                let routed = match limit_body(&mut request, &record) {
                    Err(problem) => Err(problem),
                    Ok(()) if compression && accepts_gzip(&request) => Ok(Either::Left(compressed(&route, request))),
                    Ok(()) => Ok(Either::Right(route.call(request))),
                };
                in_frame(routed, record)
            })
        }))
    }

    /// Begins the record of a request.
    pub(super) fn begin(&self, request: &Request) -> Arc<RequestRecord> {
        RequestRecord::begin(request, self.generation, self.body_limit, self.timeout, &self.proxies)
    }

    /// Adds the headers that each response has.
    pub(super) fn complete_head(&self, record: &RequestRecord, headers: &mut HeaderMap) {
        headers.reserve(HEADERS.len() + 2);
        for (name, value) in HEADERS {
            headers.entry(name).or_insert(value);
        }
        if record.is_tls {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(STRICT_TRANSPORT_SECURITY);
        }
        headers.insert(request_id::X_REQUEST_ID, request_id::header_value(record.context.trace_id));
    }
}

/// Awaits the response, and makes an error a problem. The body of the response is not limited: only the time until it
/// begins.
async fn in_frame(
    routed: Result<impl Future<Output = Result<Response, Infallible>>, Problem>,
    record: Arc<RequestRecord>,
) -> Result<Response, Infallible> {
    let routed = match routed {
        Ok(routed) => routed,
        Err(problem) => return Ok(problem.into_response()),
    };
    let answered = async {
        let Ok(response) = routed.await;
        if !problem::is_other_error(&response) {
            response
        } else if record.is_body(BodyState::TooLong) {
            too_long(&record).into_response()
        } else {
            // In a box, because errors are few: all others would carry its state too.
            Box::pin(problem::unify(response)).await
        }
    };
    let timely = WithinDeadline { answered: AssertUnwindSafe(answered).catch_unwind(), sleep: None, record: &record };
    Ok(match timely.await {
        Some(Ok(response)) => response,
        Some(Err(panic)) => panicked(panic, &record).into_response(),
        None => overdue(&record).into_response(),
    })
}

fn too_long(record: &RequestRecord) -> Problem {
    let detail = format!("the body is longer than {} bytes: send less", record.body_limit());
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// The panic hook has logged the panic.
fn panicked(_: Box<dyn Any + Send>, record: &RequestRecord) -> Problem {
    record.failed("panic");
    Problem::internal()
}

/// Returns the problem of a response that did not begin in time. 503, and not 504: no gateway is involved, and the client
/// may try again.
fn overdue(record: &RequestRecord) -> Problem {
    if record.is_body(BodyState::Awaited) {
        return Problem::new(StatusCode::REQUEST_TIMEOUT, "the body of the request did not arrive in time");
    }
    record.failed("request_timeout");
    Problem::busy("the request took too long; try again soon")
}

pin_project! {
    /// A future that ends with `None` if the deadline of its request passes.
    ///
    /// tokio's own timeout makes its timer at once. This one makes it when the first poll has not sufficed, and the route
    /// has set its limits.
    struct WithinDeadline<'a, F> {
        #[pin]
        answered: F,
        #[pin]
        sleep: Option<Sleep>,
        record: &'a RequestRecord,
    }
}

impl<F: Future> Future for WithinDeadline<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.answered.poll(cx) {
            return Poll::Ready(Some(output));
        }
        let deadline = this.record.deadline();
        // Asked for here too: the timer does not fire for a handler that uses its budget up in each poll.
        if deadline <= Instant::now() {
            return Poll::Ready(None);
        }
        match this.sleep.as_mut().as_pin_mut() {
            Some(sleep) if sleep.deadline() == deadline => {}
            _ => this.sleep.set(Some(sleep_until(deadline))),
        }
        let sleep = this.sleep.as_pin_mut().expect("it was set above");
        sleep.poll(cx).map(|()| None)
    }
}

/// Limits the body of a request.
///
/// # Errors
/// A 415 if it is compressed: a few bytes could become many.
fn limit_body(request: &mut Request, record: &Arc<RequestRecord>) -> Result<(), Problem> {
    if request.body().size_hint().exact() == Some(0) {
        return Ok(());
    }
    if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let detail = "the body is encoded: send it without Content-Encoding";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    // axum's own limit of 2 MB applies only to some extractors. This one is for every body.
    DefaultBodyLimit::disable().apply(request);
    let body = std::mem::take(request.body_mut());
    *request.body_mut() = Body::new(RequestBody::new(body, record.clone()));
    Ok(())
}

fn accepts_gzip(request: &Request) -> bool {
    match request.headers().get(header::ACCEPT_ENCODING) {
        // The layer reads it properly.
        Some(encodings) => encodings.as_bytes().windows(4).any(|part| part.eq_ignore_ascii_case(b"gzip")),
        None => false,
    }
}

/// Calls a route, and compresses its response.
fn compressed(route: &Route, request: Request) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    let may_change = |status: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        let directives = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
        status.is_success() && !directives.contains("no-transform")
    };
    let worth_it = SizeAbove::new(MIN_COMPRESSED)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::GRPC)
        .and(may_change);
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_it);
    layer.layer(route.clone()).call(request).map(|response| response.map(|response| response.map(Body::new)))
}
