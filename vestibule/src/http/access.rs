//! The access line of a request, and its metrics. Both are written when its response has ended.

use super::{
    connection_info::ConnectionInfo,
    frame::Frame,
    long_lived::WatchGenerations,
    request_metrics::{RequestLabels, RouteLabel},
    request_record::RequestRecord,
};
use crate::{debug_tokens::DebugTokens, telemetry::live_secrets};
use axum::{
    body::{Bytes, HttpBody},
    extract::Request,
    http::{Response, StatusCode, header::CONTENT_LENGTH},
};
use std::{borrow::Cow, mem, net::IpAddr, sync::Arc, task::Poll, thread};

/// The target of access lines: `telemetry.filter = "info,vestibule::access=off"` turns them off.
const TARGET: &str = "vestibule::access";

/// The largest part of a path that is logged or traced, in bytes.
const MAX_PATH: usize = 1024;

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
        let mut client = IpBuffer::default();
        tracing::info!(
            target: TARGET,
            message = "a request ended",
            http.request.method = labels.method,
            http.route = labels.route(),
            url.path = shown(self.record.uri.path()),
            url.scheme = labels.scheme,
            http.response.status_code = labels.status.map(|status| status.as_u16()),
            duration_ms,
            network.protocol.version = labels.version,
            client.address = self.record.client.map(|address| client.format(address)).as_deref(),
            "error.type" = labels.error_type(),
        );
    }
}

/// Returns the part of a path that is logged. A path with a secret is left as it is: a cut could leave a part of the secret,
/// which nobody would find.
fn shown(path: &str) -> &str {
    if path.len() > MAX_PATH && live_secrets::is_in(path) { path } else { cut(path) }
}

/// Returns the part of a path without a secret that is logged or traced.
pub(super) fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

/// Returns the length of a response's body, in bytes, if the body or the head says it.
fn length<B: HttpBody>(response: &Response<B>) -> Option<u64> {
    response.body().size_hint().exact().or_else(|| {
        let length = response.headers().get(CONTENT_LENGTH)?;
        length.to_str().ok()?.parse().ok()
    })
}

/// Memory for the text of an IPv4 address.
#[derive(Default)]
struct IpBuffer {
    bytes: [u8; "255.255.255.255".len()],
    length: usize,
}

impl IpBuffer {
    /// Returns the text of an address. For IPv4, `Display` costs several times as much.
    fn format(&mut self, address: IpAddr) -> Cow<'_, str> {
        let IpAddr::V4(address) = address else { return address.to_string().into() };
        self.length = 0;
        for octet in address.octets() {
            if self.length > 0 {
                self.push(b'.');
            }
            if octet >= 100 {
                self.push(b'0' + octet / 100);
            }
            if octet >= 10 {
                self.push(b'0' + octet / 10 % 10);
            }
            self.push(b'0' + octet % 10);
        }
        str::from_utf8(&self.bytes[..self.length]).expect("digits and dots are ASCII").into()
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::secret_parts::SecretParts;
    use std::any::Any;

    #[test]
    fn a_long_path_is_cut_but_not_within_a_secret() {
        let (value, mut parts): (Arc<dyn Any + Send + Sync>, _) = (Arc::new(()), SecretParts::default());
        parts.add("key-that-a-client-sent-in-a-path");
        let _guard = live_secrets::watch("key_in_a_path", &value, parts);
        let path = |end: &str| format!("/{}{end}", "a".repeat(MAX_PATH - 11));
        let (innocent, secret) = (path("key-that-a-client-has"), path("key-that-a-client-sent-in-a-path"));
        assert_eq!(shown(&innocent), &innocent[..MAX_PATH]);
        assert_eq!(shown(&secret), secret);
    }

    #[test]
    fn the_text_of_an_address_is_that_of_the_standard_library() {
        let mut buffer = IpBuffer::default();
        for text in ["0.9.10.99", "255.100.109.200", "1.1.1.1", "2001:db8::7"] {
            assert_eq!(buffer.format(text.parse().unwrap()), text);
        }
    }
}
