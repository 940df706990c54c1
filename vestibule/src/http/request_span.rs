//! The span of a request, if it is sampled.

use super::{
    access,
    client::ClientCertificate,
    frame::Frame,
    request_id::{self, X_REQUEST_ID},
    request_metrics::RequestLabels,
};
use crate::{
    debug_tokens::{DebugTokens, X_DEBUG_TOKEN},
    request_context::RequestContext,
    telemetry::live_secrets,
    trace_context::{SpanParent, TRACEPARENT},
    traces::{OpenSpan, SampledBy},
};
use axum::{
    extract::Request,
    http::{HeaderName, Uri},
};
use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// The headers in which a request names its trace, or asks for more of the log.
static NAMES: [HeaderName; 3] = [TRACEPARENT, X_REQUEST_ID, X_DEBUG_TOKEN];

/// The span of a sampled request.
pub(super) struct RequestSpan(Box<Mutex<Option<OpenSpan>>>);

/// Begins the trace of a request. Takes its debug token out of it. `peer` is the other end of the connection.
pub(super) fn begin(
    frame: &Frame,
    debug_tokens: &DebugTokens,
    request: &mut Request,
    peer: Option<IpAddr>,
) -> (RequestContext, Option<RequestSpan>) {
    let mut parent = None;
    let mut context =
        RequestContext { trace_id: request_id::random(), generation: frame.generation, debug: false, span: None };
    // Many requests have none of these headers. To see that costs less than to look for each of them.
    if request.headers().keys().any(|name| NAMES.contains(name)) {
        parent = SpanParent::of(request.headers());
        context.trace_id = request_id::trace_id(parent, request.headers());
        context.debug = debug_tokens.take(request.headers_mut(), context);
    }
    let Some(sampler) = &frame.sampler else { return (context, None) };
    let is_trusted = parent.is_some()
        && (request.extensions().get::<ClientCertificate>().is_some()
            || peer.is_some_and(|peer| frame.proxies.trust(peer.to_canonical())));
    let (span, recorded) = sampler.begin(context.trace_id, SampledBy { parent, is_trusted, is_forced: context.debug });
    let recorded = recorded.map(|recorded| RequestSpan(Box::new(Mutex::new(Some(recorded)))));
    (RequestContext { span: Some(span), ..context }, recorded)
}

impl RequestSpan {
    /// Ends the span with the facts of the request that has ended.
    pub(super) fn end(&self, labels: &RequestLabels, uri: &Uri, client: Option<IpAddr>) {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut span) = ended else { return };
        // A method that is not known is no name.
        let method = if labels.method == "_OTHER" { "HTTP" } else { labels.method };
        span.set("http.request.method", labels.method);
        span.set("url.scheme", labels.scheme);
        if !live_secrets::is_in(uri.path()) {
            span.set("url.path", access::cut(uri.path()));
        }
        span.set("network.protocol.version", labels.version);
        if let Some(client) = client {
            span.set("client.address", &client.to_string());
        }
        match labels.route() {
            Some(route) => {
                span.set_name(format!("{method} {route}"));
                span.set("http.route", route);
            }
            None => span.set_name(method),
        }
        if let Some(status) = labels.status {
            span.set_number("http.response.status_code", status.as_u16());
        }
        match labels.error_type() {
            Some(error_type) => span.fail(error_type),
            None => span.succeed(),
        }
    }
}
