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
use crate::{caught::caught, config::settings::ServerConfig, generation_usage::GenerationUsage, traces::Sampler};
use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, MatchedPath, Request},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::{Route, future::RouteFuture},
};
use futures_util::{FutureExt, TryFutureExt, future::BoxFuture};
use pin_project_lite::pin_project;
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, Sleep, sleep_until},
};
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

/// The headers that nearly every route sets, and no other ones, in the order in which axum adds them.
const OF_NEARLY_EVERY_ROUTE: [HeaderName; 2] = [header::CONTENT_TYPE, header::CONTENT_LENGTH];

/// The header for connections with TLS: a browser does not use plain HTTP at this host for a year.
const STRICT_TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// The frame of one generation's requests. It is made with the generation, so that a reload changes its limits too.
///
/// It holds no credential and nothing made of one: a request, or what a handler keeps of it, may outlive the generation.
pub(crate) struct Frame {
    pub(super) metrics: Arc<RequestMetrics>,
    pub(super) usage: Arc<GenerationUsage>,
    /// The places for long-lived responses, over all generations.
    pub(crate) long_lived_places: Arc<Semaphore>,
    pub(super) generation: u64,
    pub(super) body_limit: u64,
    pub(super) timeout: Duration,
    compression: bool,
    pub(super) proxies: TrustedProxies,
    /// `None` if traces are off.
    pub(super) sampler: Option<Sampler>,
    /// The defaults, after places for what nearly every response has: [`OF_NEARLY_EVERY_ROUTE`] and the id. A copy of this map
    /// costs less than to add to another one, which grows then.
    headers: HeaderMap,
    /// An empty map with room for what axum and we add to each request. A copy of it does not grow.
    pub(super) extensions: Extensions,
}

impl Frame {
    pub(crate) fn new(
        config: &ServerConfig,
        generation: u64,
        usage: &Arc<GenerationUsage>,
        long_lived_places: Arc<Semaphore>,
        sampler: Option<Sampler>,
        metrics: &Arc<RequestMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            metrics: metrics.clone(),
            usage: usage.clone(),
            long_lived_places,
            generation,
            body_limit: config.body_limit.as_u64(),
            timeout: config.request_timeout,
            compression: config.compression,
            proxies: TrustedProxies::of(config),
            sampler,
            headers: default_headers(),
            extensions: empty_extensions(),
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
                let has_body = request.body().size_hint().exact() != Some(0);
                if has_body && is_encoded(request.headers()) {
                    return FrameFuture::boxed(std::future::ready(Ok(refuse_encoding())), record);
                }
                if has_body {
                    limit_body(&mut request, &record);
                }
                // The layer reads the header properly.
                if compression && mentions(request.headers(), header::ACCEPT_ENCODING, "gzip") {
                    return FrameFuture::boxed(compressed(&route, request), record);
                }
                FrameFuture { state: FrameState::Routed { routed: route.call(request) }, deadline: None, record }
            })
        }))
    }

    /// Adds the headers that each response has.
    pub(super) fn complete_head(&self, record: &RequestRecord, status: StatusCode, headers: &mut HeaderMap) {
        if (status.is_client_error() || status.is_server_error()) && status != StatusCode::METHOD_NOT_ALLOWED {
            // axum adds the methods of a path to the answer of any layer, so a client without a token would learn the path.
            headers.remove(header::ALLOW);
        }
        let mut of_route = std::mem::replace(headers, self.headers.clone());
        let id = request_id::header_value(record.context.trace_id);
        if record.is_tls {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT_SECURITY);
        }
        if of_route.len() == OF_NEARLY_EVERY_ROUTE.len() && of_route.keys().eq(&OF_NEARLY_EVERY_ROUTE) {
            // To fill the places in their order costs no hash.
            let mut places = headers.values_mut();
            for (value, place) in of_route.values_mut().zip(&mut places) {
                std::mem::swap(value, place);
            }
            *places.next().expect("the id has a place after them") = id;
            return;
        }
        for name in OF_NEARLY_EVERY_ROUTE {
            // To compare a few names costs less than the hash of one.
            if !of_route.keys().any(|of_route| *of_route == name) {
                headers.remove(name);
            }
        }
        headers.extend(of_route);
        headers.insert(request_id::X_REQUEST_ID, id);
    }
}

pin_project! {
    /// The future of a response in the frame. The body of the response is not limited: only the time until it begins.
    ///
    /// It is written by hand: an `async` function would move the future of the route at each of these steps.
    struct FrameFuture {
        #[pin]
        state: FrameState,
        // In a box, because most requests are answered at the first poll and need no timer.
        deadline: Option<Pin<Box<Sleep>>>,
        record: Arc<RequestRecord>,
    }
}

pin_project! {
    #[project = FrameStateProjection]
    enum FrameState {
        Routed { #[pin] routed: RouteFuture<Infallible> },
        // What few requests need: a response that is compressed, or an error that becomes a problem.
        Boxed { boxed: BoxFuture<'static, Result<Response, Infallible>> },
        // The response is there.
        Ended,
    }
}

fn default_headers() -> HeaderMap {
    let empty = HeaderValue::from_static("");
    let mut headers = HeaderMap::with_capacity(HEADERS.len() + OF_NEARLY_EVERY_ROUTE.len() + 2);
    headers.extend(OF_NEARLY_EVERY_ROUTE.map(|name| (name, empty.clone())));
    headers.insert(request_id::X_REQUEST_ID, empty);
    headers.extend(HEADERS);
    debug_assert!(
        headers.keys().zip(&OF_NEARLY_EVERY_ROUTE).all(|(name, first)| name == first),
        "`complete_head` fills them"
    );
    headers
}

fn empty_extensions() -> Extensions {
    let mut extensions = Extensions::new();
    // Four values, as the record, and what axum adds: the path, its parameters, and the URI.
    extensions.insert(0_u8);
    extensions.insert(0_u16);
    extensions.insert(0_u32);
    extensions.insert(0_u64);
    extensions.clear();
    extensions
}

impl Future for FrameFuture {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.as_mut().poll_response(cx));
        self.replace_state(FrameState::Ended);
        Poll::Ready(Ok(response))
    }
}

impl FrameFuture {
    /// Polls the route until there is a response, or until the deadline.
    fn poll_response(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        loop {
            let mut this = self.as_mut().project();
            let poll = || match this.state.as_mut().project() {
                FrameStateProjection::Routed { routed } => routed.poll(cx),
                FrameStateProjection::Boxed { boxed } => boxed.as_mut().poll(cx),
                FrameStateProjection::Ended => unreachable!("a future is not polled after it has ended"),
            };
            let response = match caught(poll) {
                Some(Poll::Ready(Ok(response))) => response,
                Some(Poll::Pending) => return self.poll_deadline(cx),
                None => {
                    this.record.failed("panic");
                    return Poll::Ready(Problem::internal().into_response());
                }
            };
            if is_interim(&response, this.record) {
                let cause = format!("a handler answered with {}, which ends no request", response.status());
                return Poll::Ready(Problem::internal().with_cause(cause).into_response());
            }
            if !problem::is_other_error(&response) {
                return Poll::Ready(response);
            }
            if this.record.is_body(BodyState::TooLong) {
                return Poll::Ready(problem::replace(response, too_long(this.record)));
            }
            let unified = problem::unify(response, this.record.is_idempotent()).map(Ok);
            self.as_mut().replace_state(FrameState::Boxed { boxed: Box::pin(unified) });
        }
    }

    /// Drops what the handler holds at its last `await`, within its request. If that panics, the response is there all the
    /// same.
    fn replace_state(self: Pin<&mut Self>, next: FrameState) {
        let mut state = self.project().state;
        let _ = caught(|| state.set(next));
    }

    fn boxed(
        response: impl Future<Output = Result<Response, Infallible>> + Send + 'static,
        record: Arc<RequestRecord>,
    ) -> Self {
        Self { state: FrameState::Boxed { boxed: Box::pin(response) }, deadline: None, record }
    }

    /// Waits for the deadline, and answers when it passes. The route may have changed it since the last poll.
    fn poll_deadline(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        let this = self.project();
        let deadline = this.record.deadline();
        let sleep = this.deadline.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        // The clock counts too: the timer does not fire for a handler that uses its budget up in each poll.
        if sleep.as_mut().poll(cx).is_pending() && Instant::now() < deadline {
            return Poll::Pending;
        }
        Poll::Ready(overdue(this.record).into_response())
    }
}

/// Returns `true` if a response cannot be the last one of its request: a 1xx, but for a 101, which HTTP/2 does not have
/// (RFC 9113, section 8.6).
fn is_interim(response: &Response, record: &RequestRecord) -> bool {
    let status = response.status();
    status.is_informational() && (status != StatusCode::SWITCHING_PROTOCOLS || record.version == "2")
}

fn too_long(record: &RequestRecord) -> Problem {
    let detail = format!("the body is longer than {} bytes: send less", record.body_limit());
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// Returns the problem of a response that did not begin in time. 503, and not 504: no gateway is involved.
///
/// The handler may have done its work. So the client is told to try again only if the request may be done twice.
fn overdue(record: &RequestRecord) -> Problem {
    if record.is_body(BodyState::Awaited) {
        return Problem::new(StatusCode::REQUEST_TIMEOUT, "the body of the request did not arrive in time");
    }
    record.failed("request_timeout");
    if record.is_idempotent() {
        return Problem::busy("the request took too long; try again soon");
    }
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the request took too long, and it may have been carried out")
}

/// Returns `true` if the body of a request with these headers is encoded, for example compressed.
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Refuses a body that is encoded: a few bytes could become many. The header says which encoding is accepted (RFC 9110,
/// section 12.5.3).
fn refuse_encoding() -> Response {
    let detail = "the body is encoded: send it without Content-Encoding";
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
    ([(header::ACCEPT_ENCODING, "identity")], problem).into_response()
}

/// Limits the body of a request.
fn limit_body(request: &mut Request, record: &Arc<RequestRecord>) {
    // axum's own limit of 2 MB applies only to some extractors. This one is for every body.
    DefaultBodyLimit::disable().apply(request);
    let body = std::mem::take(request.body_mut());
    *request.body_mut() = Body::new(RequestBody::new(body, record.clone()));
}

/// Returns `true` if a header has this word, in any of its lines, in upper or lower case.
fn mentions(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let mut lines = headers.get_all(name).iter();
    lines.any(|line| line.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes())))
}

/// Calls a route, and compresses its response. One with a strong `ETag` stays as it is: the tag names its bytes (RFC 9110,
/// section 8.8.1), and a client that gets another tag can change nothing with `If-Match`.
fn compressed(route: &Route, request: Request) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    let may_change = |status: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        let has_strong_tag = headers.get(header::ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
        status.is_success() && !mentions(headers, header::CACHE_CONTROL, "no-transform") && !has_strong_tag
    };
    let worth_it = SizeAbove::new(MIN_COMPRESSED)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES)
        .and(NotForContentType::GRPC)
        .and(may_change);
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(worth_it);
    layer.layer(route.clone()).call(request).map_ok(|response| response.map(Body::new))
}
