//! Serves a listener: accepts connections, gives each a task, and stops.
//!
//! ```text
//! place (or wait) ─► accept ─► handshake ─► hyper ─► the service (door, or admin routes)
//!                                 ▲           ▲
//!                                 └─ watchdog ┘  ends what is slow, silent or old
//! ```

use super::{
    accept,
    connection::{Order, WatchedConnection},
    connection_info::{ConnectionInfo, PeerAddress},
    connections::{ConnectionMetrics, Connections, Place},
    end_reason::EndReason,
    policy::ListenerPolicy,
    socket::{ListenerSocket, PlacedIo, Socket},
    watched::WatchedService,
};
use crate::config::settings::connections::ConnectionsConfig;
use axum::{
    BoxError, Router,
    body::{Body, Bytes},
    extract::Request,
    http::Response,
    routing::future::RouteFuture,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// The pause after a connection could not be accepted, for example because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A service that answers the requests of a listener: the door, or the admin routes.
pub(crate) trait ListenerService: Clone + Send + 'static {
    /// The body of its responses.
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    /// The future of a response.
    type Future: Future<Output = Result<Response<Self::Body>, Infallible>> + Send;

    /// Answers a request. `connection` is `None` at the command socket.
    fn answer(&self, request: Request, connection: Option<ConnectionInfo>) -> Self::Future;
}

impl ListenerService for Router {
    type Body = Body;
    type Future = RouteFuture<Infallible>;

    fn answer(&self, mut request: Request, connection: Option<ConnectionInfo>) -> Self::Future {
        if let Some(connection) = connection {
            request.extensions_mut().insert(PeerAddress(connection.peer));
        }
        tower::Service::call(&mut self.clone(), request)
    }
}

/// A listener that accepts connections.
pub(crate) struct HttpServer {
    connections: Arc<Connections>,
    stopping: CancellationToken,
    accepting: JoinHandle<()>,
    watchdog: AbortOnDropHandle<()>,
}

impl HttpServer {
    /// Accepts connections for `service`.
    pub(crate) fn start(
        name: &'static str,
        listener: ListenerSocket,
        policy: impl ListenerPolicy,
        metrics: &ConnectionMetrics,
        service: impl ListenerService,
    ) -> Self {
        let policy = Arc::new(policy);
        let connections = Arc::new(Connections::new(name, metrics));
        connections.limits(&*policy);
        let stopping = CancellationToken::new();
        let watchdog = {
            let (connections, policy) = (connections.clone(), policy.clone());
            tokio::spawn(async move { connections.watch(&*policy).await })
        };
        let accepting = {
            let (connections, stopping) = (connections.clone(), stopping.clone());
            let accept_all = async move { accept_all(&listener, &policy, &connections, service).await };
            tokio::spawn(async move { stopping.run_until_cancelled(accept_all).await.unwrap_or_default() })
        };
        Self { connections, stopping, accepting, watchdog: AbortOnDropHandle::new(watchdog) }
    }

    /// Tells clients that the listener stops soon: each connection ends with its next response. Goes on accepting.
    pub(crate) fn linger(&self) {
        self.connections.linger();
    }

    /// Stops accepting, and lets the requests in flight finish within `grace`.
    pub(crate) async fn stop(mut self, grace: Duration) {
        self.stopping.cancel();
        if !self.accepting.is_finished() {
            let _ = (&mut self.accepting).await;
        }
        self.connections.close(grace).await;
    }

    /// Waits until the listener or its watchdog fails, which they do only by a panic. Cancel-safe.
    pub(crate) async fn failed(&mut self) {
        tokio::select! {
            _ = &mut self.accepting => (),
            _ = &mut self.watchdog => (),
        }
    }
}

/// Accepts one connection after the other.
async fn accept_all(
    listener: &ListenerSocket,
    policy: &Arc<impl ListenerPolicy>,
    connections: &Arc<Connections>,
    service: impl ListenerService,
) {
    let (mut is_failing, mut logged_full) = (false, None);
    loop {
        let limits = connections.room(&**policy, &mut logged_full).await.connections;
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(error) if is_of_one_client(&error) => continue,
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "could not accept connections; trying again");
                    is_failing = true;
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if is_failing {
            tracing::info!("connections are accepted again");
            is_failing = false;
        }
        let (connection, place) = connections.admit(&limits);
        tokio::spawn(serve(socket, connection, place, limits, policy.clone(), service.clone()));
    }
}

/// Returns `true` if only one client is affected: it went away before it was accepted.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

/// Serves one connection to its end.
async fn serve(
    socket: Socket,
    connection: Arc<WatchedConnection>,
    place: Place,
    limits: ConnectionsConfig,
    policy: Arc<impl ListenerPolicy>,
    service: impl ListenerService,
) {
    let handshake = tokio::select! {
        biased;
        // Nothing is under way that could finish.
        _ = connection.next_order() => return,
        handshake = accept::handshake(socket, &limits, &*policy) => handshake,
    };
    let http = match handshake {
        Ok(http) => http,
        Err(error) => {
            tracing::debug!(%error, "a handshake failed");
            return connection.ends_for(EndReason::HandshakeFailed);
        }
    };
    let is_tls = http.tls.is_some();
    connection.speaks_http(http.tls.and_then(|tls| tls.authority));
    let builder = with_limits(&limits, StreamExecutor(connection.clone()));
    let io = TokioIo::new(PlacedIo::new(http.io, place));
    let service = WatchedService {
        inner: service,
        connection: connection.clone(),
        peer: http.peer,
        is_tls,
        client: http.client,
        user: http.user,
    };
    let mut serving = pin!(builder.serve_connection_with_upgrades(io, service));
    loop {
        tokio::select! {
            biased;
            order = connection.next_order() => match order {
                Order::Close => serving.as_mut().graceful_shutdown(),
                Order::Cut => return,
            },
            result = serving.as_mut() => return connection.ends_for(EndReason::of(&result)),
        }
    }
}

/// Spawns the tasks of an HTTP/2 connection, and tells it of them: so the watchdog can end one stream alone.
#[derive(Clone)]
struct StreamExecutor(Arc<WatchedConnection>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        self.0.spawned(tokio::spawn(stream).abort_handle());
    }
}

/// Returns hyper with the limits of a connection.
fn with_limits(limits: &ConnectionsConfig, executor: StreamExecutor) -> auto::Builder<StreamExecutor> {
    let mut builder = auto::Builder::new(executor);
    let bytes = |size: bytesize::ByteSize| u32::try_from(size.as_u64()).unwrap_or(u32::MAX);
    let count = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    builder.http1().max_buf_size(count(limits.max_head)).max_headers(limits.max_headers.get().into());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_max_streams.get())
        .max_pending_accept_reset_streams(usize::from(limits.http2_max_pending_resets.get()))
        .max_local_error_reset_streams(usize::from(limits.http2_max_error_resets.get()))
        .initial_stream_window_size(bytes(limits.http2_stream_window))
        .initial_connection_window_size(bytes(limits.http2_connection_window))
        .max_send_buf_size(count(limits.http2_send_buffer))
        .max_header_list_size(bytes(limits.http2_max_head))
        .keep_alive_interval(limits.http2_ping_every)
        .keep_alive_timeout(limits.http2_ping_timeout);
    builder
}

#[cfg(test)]
mod tests;
