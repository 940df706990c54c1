//! Listeners: bound when there is a generation to serve, and not before.

use super::accept::Acceptor;
use crate::{
    application::{Application, Generation},
    counters::Counter,
    exit::{Exit, Fault, Phase, Report},
};
use axum::http::Request;
use axum_server::Handle;
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpSocket, sync::watch, task::JoinHandle};
use tower::make::Shared;

/// How long a client may take to send the head of its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// How long a client may take from there to the end of the head of the next request, waiting included: longer than load
/// balancers keep an idle connection (AWS's ALB: 60 s), or they would send requests into one that is just closing.
const NEXT_REQUEST: Duration = Duration::from_secs(75);

/// How often an HTTP/2 connection is asked whether its client is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Connections that may wait to be accepted; the kernel's own limit (`net.core.somaxconn`) counts too.
const BACKLOG: u32 = 1024;

/// Both listeners, and the generation they serve.
pub(crate) struct Bound<A: Application> {
    pub(crate) public: TcpListener,
    pub(crate) admin: TcpListener,
    pub(crate) live: watch::Sender<Arc<Generation<A>>>,
}

/// Binds both listeners. Takes the first generation: without credentials there is nothing to serve. Neither listens
/// unless both can.
///
/// # Errors
/// Every address that cannot be bound.
pub(crate) fn bind<A: Application>(first: Arc<Generation<A>>) -> Result<Bound<A>, Report> {
    let config = &first.config;
    let public = Reserved::bind("server.listen", config.server.listen);
    let admin = Reserved::bind("admin.listen", config.admin.listen);
    both(public, admin)
        .and_then(|(public, admin)| both(public.listen(), admin.listen()))
        .map(|(public, admin)| Bound { public, admin, live: watch::Sender::new(first) })
        .map_err(|faults| Report { phase: Phase::Bind, faults })
}

fn both<T>(public: Result<T, Fault>, admin: Result<T, Fault>) -> Result<(T, T), Vec<Fault>> {
    match (public, admin) {
        (Ok(public), Ok(admin)) => Ok((public, admin)),
        (public, admin) => Err([public.err(), admin.err()].into_iter().flatten().collect()),
    }
}

/// An address that is ours, on which nobody can connect yet.
struct Reserved {
    key: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

impl Reserved {
    fn bind(key: &'static str, address: SocketAddr) -> Result<Self, Fault> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let bound = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        });
        match bound {
            Ok(socket) => Ok(Self { key, address, socket }),
            Err(error) => Err(fault(key, address, &error)),
        }
    }

    fn listen(self) -> Result<TcpListener, Fault> {
        self.socket
            .listen(BACKLOG)
            .and_then(tokio::net::TcpListener::into_std)
            .map_err(|error| fault(self.key, self.address, &error))
    }
}

fn fault(key: &str, address: SocketAddr, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the process that listens there, or configure another port",
        io::ErrorKind::PermissionDenied => "configure a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
        _ => "configure an address of this machine",
    };
    Fault::new(Exit::Bind, format!("{key} = {address}"), format!("cannot be bound: {}", error.kind()), remedy)
}

/// A listener that accepts.
pub(crate) struct Serving {
    handle: Handle<SocketAddr>,
    task: JoinHandle<io::Result<()>>,
}

impl Serving {
    /// Stops accepting, and finishes what is in flight within `grace`.
    pub(crate) async fn stop(mut self, grace: Duration) {
        self.handle.graceful_shutdown(Some(grace));
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }

    /// Ends when the listener fails. Cancel-safe.
    pub(crate) async fn failed(&mut self) -> io::Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            _ => io::Error::other("it ended"),
        }
    }
}

/// Accepts connections for `service`; each speaks TLS as `tls` says when it begins, and counts as `failed` if nothing
/// comes of it.
///
/// # Errors
/// If the listener cannot be registered with the runtime.
pub(crate) fn serve<T>(
    listener: TcpListener,
    tls: impl Fn() -> Option<Arc<ServerConfig>> + Send + Sync + 'static,
    failed: Counter,
    service: T,
) -> io::Result<Serving>
where
    T: tower::Service<
            Request<hyper::body::Incoming>,
            Response = axum::response::Response,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send,
{
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(Acceptor::new(tls))
        .handle(handle.clone())
        .first_request_timeout(FIRST_REQUEST)
        .accept_error_handler(move |client, error| {
            match client {
                Some(client) => {
                    failed.increment();
                    tracing::debug!(client.address = %client, %error, "a handshake failed");
                }
                // The listener's own trouble, such as too many open files.
                None => tracing::warn!(%error, "a connection could not be accepted"),
            }
        });
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(NEXT_REQUEST);
    server.http_builder().http2().keep_alive_interval(KEEP_ALIVE);
    let task = tokio::spawn(server.serve(Shared::new(service)));
    Ok(Serving { handle, task })
}
