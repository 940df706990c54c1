//! The access line of a request, and its metrics. Both are written when its response has ended.

use super::{
    connection_info::ConnectionInfo,
    frame::Frame,
    long_lived::WatchGenerations,
    request_metrics::{RequestLabels, RouteLabel},
    request_record::RequestRecord,
};
use crate::debug_tokens::DebugTokens;
use axum::{
    body::{Bytes, HttpBody},
    extract::Request,
    http::{Response, StatusCode, header::CONTENT_LENGTH},
};
use std::{mem, net::IpAddr, sync::Arc, task::Poll, thread};

/// The target of access lines: `telemetry.filter = "info,vestibule::access=off"` turns them off.
const TARGET: &str = "vestibule::access";

/// The largest part of a path that is logged or traced, in bytes.
pub(super) const MAX_PATH: usize = 1024;

/// The guard of a request that has begun. It writes the access line and the metrics when it is dropped.
pub(super) struct AccessGuard {
    pub(super) record: Arc<RequestRecord>,
    status: Option<StatusCode>,
    end: ResponseEnd,
    /// The bytes that were promised and not handed out. A server asks for nothing after them.
    left: Option<u64>,
}

/// The end of a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResponseEnd {
    /// It has not ended. If it is dropped now, the client did not wait for the rest.
    Pending,
    /// Its last byte was handed out.
    Complete,
    /// Its body failed.
    Failed,
}

impl AccessGuard {
    /// Begins the record of a request, and puts it into the request's extensions.
    pub(super) fn begin(
        frame: &Arc<Frame>,
        debug_tokens: &DebugTokens,
        request: &mut Request,
        connection: Option<ConnectionInfo>,
        generations: Arc<dyn WatchGenerations>,
    ) -> Self {
        let record = RequestRecord::begin(frame, debug_tokens, request, connection, generations);
        frame.metrics.begin(record.method, record.scheme());
        let extensions = request.extensions_mut();
        let given = mem::replace(extensions, frame.extensions.clone());
        extensions.extend(given);
        extensions.insert(record.clone());
        Self { record, status: None, end: ResponseEnd::Pending, left: None }
    }

    /// Calls `f` for this request: the log lines that it writes get the request's ids.
    pub(super) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
        self.record.context.within(f)
    }

    /// Records that the response begins, and completes its head.
    pub(super) fn answer<B: HttpBody>(&mut self, response: &mut Response<B>) {
        let status = response.status();
        self.record.frame.complete_head(&self.record, status, response.headers_mut());
        self.status = Some(status);
        if response.body().is_end_stream() {
            self.end = ResponseEnd::Complete;
            return;
        }
        self.left = length(response);
        self.hand_out(0);
    }

    /// Records that this many bytes were handed out.
    fn hand_out(&mut self, bytes: usize) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes as u64);
            if *left == 0 {
                self.end = ResponseEnd::Complete;
            }
        }
    }

    /// Records what a poll of the response's body returned.
    pub(super) fn body_polled<E>(
        &mut self,
        polled: &Poll<Option<Result<http_body::Frame<Bytes>, E>>>,
        is_end_stream: bool,
    ) {
        match polled {
            Poll::Ready(Some(Err(_))) => self.end = ResponseEnd::Failed,
            Poll::Ready(_) if is_end_stream => self.end = ResponseEnd::Complete,
            Poll::Ready(None) => self.end = ResponseEnd::Complete,
            Poll::Ready(Some(Ok(frame))) => self.hand_out(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Pending => {}
        }
    }

    fn log(&self, labels: &RequestLabels, duration_ms: f64) {
        let path = self.record.uri.path();
        tracing::info!(
            target: TARGET,
            message = "a request ended",
            http.request.method = labels.method,
            http.route = labels.route(),
            url.path = &path[..path.floor_char_boundary(MAX_PATH)],
            url.scheme = labels.scheme,
            http.response.status_code = labels.status.map(|status| status.as_u16()),
            duration_ms,
            network.protocol.version = labels.version,
            client.address = self.record.client.map(ip_text),
            "error.type" = labels.error_type(),
        );
    }
}

/// Returns the length of a response's body, in bytes, if the body or the head says it.
fn length<B: HttpBody>(response: &Response<B>) -> Option<u64> {
    match response.status() {
        // A server leaves the body out, whatever it is.
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Some(0),
        _ => response.body().size_hint().exact().or_else(|| {
            let length = response.headers().get(CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        }),
    }
}

/// Returns the text of an address. For IPv4, `Display` costs several times as much.
fn ip_text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(octet));
    }
    text
}

impl Drop for AccessGuard {
    fn drop(&mut self) {
        let duration = self.record.started.elapsed();
        // The last byte may be handed out although the client has not taken it.
        match (self.record.cut_for(), self.end) {
            (Some(reason), _) => self.record.failed(reason.label()),
            (None, ResponseEnd::Pending) if thread::panicking() => self.record.failed("panic"),
            (None, ResponseEnd::Pending) => self.record.failed("client_disconnected"),
            (None, ResponseEnd::Failed) => self.record.failed("response_failed"),
            (None, ResponseEnd::Complete) => {}
        }
        let labels = RequestLabels {
            method: self.record.method,
            scheme: self.record.scheme(),
            version: self.record.version,
            status: self.status,
            route: self.record.route.get().cloned().map(RouteLabel),
            error_type: self.record.error_type.get().copied(),
        };
        self.record.frame.metrics.end(&labels, duration);
        if let Some(span) = &self.record.span {
            span.end(&labels, &self.record.uri, self.record.client);
        }
        // To the microsecond.
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.within(|| self.log(&labels, micros as f64 / 1000.0));
    }
}
