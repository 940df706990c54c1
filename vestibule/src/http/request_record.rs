//! The facts of one request, from its head to the last byte of its response.

use super::{
    connection_info::ConnectionInfo,
    end_reason::EndReason,
    exchange::Exchange,
    frame::Frame,
    limits::Limits,
    long_lived::WatchGenerations,
    request_metrics::{method_label, version_label},
    request_span::{self, RequestSpan},
};
use crate::{debug_tokens::DebugTokens, request_context::RequestContext};
use axum::{
    extract::{ConnectInfo, MatchedPath, Request},
    http::Uri,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// The methods whose requests may be done twice (RFC 9110, section 9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

/// The facts of one request. The door makes it, and the request carries it as an extension: the frame, and the layers
/// and extractors of routes, read and change it there.
pub(crate) struct RequestRecord {
    pub(crate) frame: Arc<Frame>,
    pub(crate) method: &'static str,
    pub(crate) version: &'static str,
    pub(crate) uri: Uri,
    pub(crate) context: RequestContext,
    pub(crate) started: Instant,
    /// `true` if the connection uses TLS.
    pub(crate) is_tls: bool,
    /// The client's address. `None` if the request came on no connection, as in a test.
    pub(crate) client: Option<IpAddr>,
    /// The request as the watchdog sees it. `None` if it came on no connection.
    exchange: Option<Arc<Exchange>>,
    /// The span, if the request is sampled.
    pub(super) span: Option<RequestSpan>,
    /// The route that matched. Empty if none did.
    pub(crate) route: OnceLock<MatchedPath>,
    /// The reason for which the request failed, if its status does not say it.
    pub(crate) error_type: OnceLock<&'static str>,
    /// A handle to the generation in service, for a response that lasts.
    pub(super) generations: Arc<dyn WatchGenerations>,
    /// In bytes.
    body_limit: AtomicU64,
    timeout_micros: AtomicU64,
    body: AtomicU8,
}

/// The state of the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BodyState {
    /// Nobody waits for it: the handler has not asked for more.
    Idle,
    /// The handler waits for its next bytes.
    Awaited,
    /// It is longer than the limit.
    TooLong,
}

impl RequestRecord {
    /// Begins the record of a request. The limits of the frame apply unless its route has its own.
    pub(super) fn begin(
        frame: &Arc<Frame>,
        debug_tokens: &DebugTokens,
        request: &mut Request,
        connection: Option<ConnectionInfo>,
        generations: Arc<dyn WatchGenerations>,
    ) -> Arc<Self> {
        let (peer, is_tls, exchange) = match connection {
            Some(ConnectionInfo { peer, tls, exchange }) => (Some(peer), tls, Some(exchange)),
            // axum's own extension, for tests of a service.
            None => (request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0), false, None),
        };
        let (context, span) = request_span::begin(frame, debug_tokens, request, peer.map(|peer| peer.ip()));
        Arc::new(Self {
            frame: frame.clone(),
            method: method_label(request.method()),
            version: version_label(request.version()),
            uri: request.uri().clone(),
            context,
            span,
            started: exchange.as_ref().map_or_else(Instant::now, |exchange| exchange.started),
            is_tls,
            exchange,
            client: peer.map(|peer| frame.proxies.client(peer.ip(), request.headers())),
            route: OnceLock::new(),
            error_type: OnceLock::new(),
            generations,
            body_limit: frame.body_limit.into(),
            timeout_micros: micros(frame.timeout).into(),
            body: (BodyState::Idle as u8).into(),
        })
    }

    /// Returns the record that the door put into the request's extensions.
    pub(super) fn of(request: &Request) -> Arc<Self> {
        request.extensions().get::<Arc<Self>>().expect("a request comes through the door").clone()
    }

    /// Returns `true` if the request may be done twice. Another one may be repeated only if nothing of it was done.
    pub(super) fn is_idempotent(&self) -> bool {
        IDEMPOTENT.contains(&self.method)
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// Replaces the limits that a route has its own of.
    pub(super) fn limit(&self, limits: &Limits) {
        if let Some(body) = limits.body {
            self.body_limit.store(body.as_u64(), Ordering::Relaxed);
        }
        if let Some(timeout) = limits.timeout {
            self.timeout_micros.store(micros(timeout), Ordering::Relaxed);
        }
    }

    /// Returns the largest length of the request's body, in bytes.
    pub(super) fn body_limit(&self) -> u64 {
        self.body_limit.load(Ordering::Relaxed)
    }

    /// Returns the time at which the response must have begun.
    pub(super) fn deadline(&self) -> Instant {
        self.started + Duration::from_micros(self.timeout_micros.load(Ordering::Relaxed))
    }

    pub(super) fn set_body(&self, state: BodyState) {
        self.body.store(state as u8, Ordering::Relaxed);
    }

    /// Returns `true` if the request's body is in this state.
    pub(super) fn is_body(&self, state: BodyState) -> bool {
        self.body.load(Ordering::Relaxed) == state as u8
    }

    /// Returns the reason for which the watchdog ended the connection before the response was out, if it did.
    pub(super) fn cut_for(&self) -> Option<EndReason> {
        self.exchange.as_ref()?.cut_for()
    }

    /// Keeps the place of the request until its response is out. Returns it if the request came on no connection.
    pub(super) fn hold(&self, place: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        let Some(exchange) = &self.exchange else { return Some(place) };
        exchange.hold(place);
        None
    }

    /// Gives the place back before the response is out.
    pub(super) fn give_back(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.give_back();
        }
    }

    /// Records the reason for which the request failed. The first one stays.
    pub(crate) fn failed(&self, error_type: &'static str) {
        let _ = self.error_type.set(error_type);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
