//! The listeners. They are bound only when there is a generation to serve.

use super::{accept::Acceptor, command_socket::CommandSocket};
use crate::{
    application::{Application, Generation},
    cause::RootCause,
    exit::{Exit, Fault, Phase, Report},
    metrics::Counter,
};
use axum::{
    BoxError, Router,
    http::{Request, Response},
};
use axum_server::{Address, Handle, Server};
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpSocket, UnixListener, UnixSocket},
    sync::watch,
    task::JoinHandle,
};
use tower::make::Shared;

/// The timeout for the head of a connection's first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout from one request to the end of the next request's head, idle time included. It is longer than load
/// balancers keep an idle connection (AWS's ALB: 60 s). Otherwise they would send requests into a connection that is
/// just closing.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_secs(75);

/// The interval at which HTTP/2 pings check that the client is still there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// The largest number of connections that wait to be accepted. The kernel's own limit (`net.core.somaxconn`) applies
/// too.
const BACKLOG: u32 = 1024;

/// The listeners, bound, and the generation that they serve.
pub(crate) struct BoundListeners<A: Application> {
    pub(crate) public: TcpListener,
    pub(crate) admin: TcpListener,
    /// The listener at the command socket.
    pub(crate) commands: UnixListener,
    pub(crate) live: watch::Sender<Arc<Generation<A>>>,
}

/// Binds the listeners. Takes the first generation, because without credentials there is nothing to serve. None listens
/// unless all can.
///
/// # Errors
/// A report of every address that cannot be bound.
pub(crate) fn bind<A: Application>(first: Arc<Generation<A>>) -> Result<BoundListeners<A>, Report> {
    let config = &first.config;
    let public = BoundSocket::bind("server.listen", config.server.listen);
    let admin = BoundSocket::bind("admin.listen", config.admin.listen);
    let (public, admin) = both(public, admin)?;
    let commands = BoundCommandSocket::bind(A::PACKAGE.name, &admin).map_err(report)?;
    let (public, admin) = both(public.listen(), admin.listen())?;
    let commands = commands.listen().map_err(report)?;
    Ok(BoundListeners { public, admin, commands, live: watch::Sender::new(first) })
}

/// Returns both results, or the faults of those that failed.
fn both<T>(public: Result<T, Fault>, admin: Result<T, Fault>) -> Result<(T, T), Report> {
    match (public, admin) {
        (Ok(public), Ok(admin)) => Ok((public, admin)),
        (public, admin) => {
            let faults = [public.err(), admin.err()].into_iter().flatten().collect();
            Err(Report { phase: Phase::Bind, faults })
        }
    }
}

fn report(fault: Fault) -> Report {
    Report::of(Phase::Bind, fault)
}

/// An address that the process has bound, and on which nobody can connect yet.
struct BoundSocket {
    key: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

impl BoundSocket {
    fn bind(key: &'static str, address: SocketAddr) -> Result<Self, Fault> {
        match bound_socket(address) {
            Ok(socket) => Ok(Self { key, address, socket }),
            Err(error) => Err(bind_fault(key, address, &error)),
        }
    }

    fn listen(self) -> Result<TcpListener, Fault> {
        self.socket
            .listen(BACKLOG)
            .and_then(tokio::net::TcpListener::into_std)
            .map_err(|error| bind_fault(self.key, self.address, &error))
    }
}

/// The command socket, on which nobody can connect yet.
struct BoundCommandSocket {
    name: CommandSocket,
    socket: UnixSocket,
}

impl BoundCommandSocket {
    /// Binds the command socket that belongs to this admin listener.
    fn bind(service: &str, admin: &BoundSocket) -> Result<Self, Fault> {
        // The configured port may be 0.
        let address = admin.socket.local_addr().map_err(|error| bind_fault(admin.key, admin.address, &error))?;
        let name = CommandSocket::of(service, address);
        match name.bind() {
            Ok(socket) => Ok(Self { name, socket }),
            Err(error) => Err(command_socket_fault(&name, &error)),
        }
    }

    fn listen(self) -> Result<UnixListener, Fault> {
        self.socket.listen(BACKLOG).map_err(|error| command_socket_fault(&self.name, &error))
    }
}

fn command_socket_fault(name: &CommandSocket, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop the process that has it (`ss -xlp` names it), or configure another admin.listen"
        }
        _ => "allow the service to listen on a Unix socket",
    };
    let subject = format!("the command socket {name}");
    Fault::new(Exit::Bind, subject, format!("cannot be bound: {}", error.kind()), remedy)
}

fn bound_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn bind_fault(key: &str, address: SocketAddr, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the process that listens there, or configure another port",
        io::ErrorKind::PermissionDenied => "configure a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
        _ => "configure an address of this machine",
    };
    Fault::new(Exit::Bind, format!("{key} = {address}"), format!("cannot be bound: {}", RootCause::of(error)), remedy)
}

/// A listener that accepts connections.
pub(crate) struct HttpServer<A: Address = SocketAddr> {
    handle: Handle<A>,
    task: JoinHandle<io::Result<()>>,
}

impl<A: Address> HttpServer<A> {
    /// Stops accepting, and lets the requests in flight finish within `grace`.
    pub(crate) async fn stop(mut self, grace: Duration) {
        self.handle.graceful_shutdown(Some(grace));
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }

    /// Waits until the listener fails, and returns the error. Cancel-safe.
    pub(crate) async fn failed(&mut self) -> io::Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            _ => io::Error::other("it ended"),
        }
    }
}

/// Accepts connections for `service`. Calls `tls` when a connection begins, for the TLS configuration of that moment.
/// `failed` counts the connections whose handshake failed.
///
/// # Errors
/// If the listener cannot be registered with the runtime.
pub(crate) fn serve<T, B>(
    listener: TcpListener,
    tls: impl Fn() -> Option<Arc<ServerConfig>> + Send + Sync + 'static,
    failed: Counter,
    service: T,
) -> io::Result<HttpServer>
where
    T: tower::Service<Request<hyper::body::Incoming>, Response = Response<B>, Error = std::convert::Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send,
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let handle = Handle::new();
    let server = axum_server::from_tcp(listener)?
        .acceptor(Acceptor::new(tls))
        .handle(handle.clone())
        .accept_error_handler(move |client, error| {
            if let Some(client) = client {
                failed.inc();
                tracing::debug!(client.address = %client, %error, "a handshake failed");
            } else {
                // An error of the listener itself, such as too many open files.
                tracing::warn!(%error, "could not accept a connection");
            }
        });
    let task = tokio::spawn(with_limits(server).serve(Shared::new(service)));
    Ok(HttpServer { handle, task })
}

/// Accepts the connections of commands.
pub(crate) fn serve_commands(listener: UnixListener, routes: Router) -> HttpServer<unix::net::SocketAddr> {
    let handle = Handle::new();
    let server = Server::from_listener(listener).handle(handle.clone()).accept_error_handler(|_, error| {
        tracing::warn!(%error, "could not accept a connection of a command");
    });
    let task = tokio::spawn(with_limits(server).serve(Shared::new(routes)));
    HttpServer { handle, task }
}

/// Sets the limits of the connections of a listener.
fn with_limits<A: Address, Acc>(server: Server<A, Acc>) -> Server<A, Acc> {
    let mut server = server.first_request_timeout(FIRST_REQUEST_TIMEOUT);
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(NEXT_REQUEST_TIMEOUT);
    server.http_builder().http2().keep_alive_interval(KEEP_ALIVE_INTERVAL);
    server
}
