//! Listeners: bound when there is a generation to serve, and not before.

use crate::{
    Generation, Service,
    exit::{Exit, Fault, Phase, Report},
};
use axum::http::Request;
use axum_server::{Handle, accept::NoDelayAcceptor};
use hyper_util::rt::TokioTimer;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinHandle};
use tower::make::Shared;

/// How long a client may take to send the head of a request.
const HEADER_READ: Duration = Duration::from_secs(10);

/// Both listeners, and the generation they serve.
pub(crate) struct Bound<S: Service> {
    pub(crate) public: TcpListener,
    pub(crate) admin: TcpListener,
    pub(crate) live: watch::Sender<Arc<Generation<S>>>,
}

/// Binds both listeners. Takes the first generation: without credentials there is nothing to serve.
///
/// # Errors
/// Every address that cannot be bound.
pub(crate) fn bind<S: Service>(first: Generation<S>) -> Result<Bound<S>, Report> {
    let config = &first.config;
    let public = listener("server.listen", config.server.listen);
    let admin = listener("admin.listen", config.admin.listen);
    match (public, admin) {
        (Ok(public), Ok(admin)) => Ok(Bound { public, admin, live: watch::Sender::new(Arc::new(first)) }),
        (public, admin) => {
            let faults = [public.err(), admin.err()].into_iter().flatten().collect();
            Err(Report { phase: Phase::Bind, faults })
        }
    }
}

fn listener(key: &str, address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener)).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "stop the process that listens there, or configure another port",
            io::ErrorKind::PermissionDenied => "configure a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
            _ => "configure an address of this machine",
        };
        Fault::new(Exit::Bind, format!("{key} = {address}"), format!("cannot be bound: {}", error.kind()), remedy)
    })
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
        let _ = (&mut self.task).await;
    }

    /// Ends when the listener fails. Cancel-safe.
    pub(crate) async fn failed(&mut self) -> io::Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            _ => io::Error::other("it ended"),
        }
    }
}

/// Accepts connections for `service`.
///
/// # Errors
/// If the listener cannot be registered with the runtime.
pub(crate) fn serve<T>(listener: TcpListener, service: T) -> io::Result<Serving>
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
        .acceptor(NoDelayAcceptor::new())
        .handle(handle.clone())
        .first_request_timeout(HEADER_READ);
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    let task = tokio::spawn(server.serve(Shared::new(service)));
    Ok(Serving { handle, task })
}
