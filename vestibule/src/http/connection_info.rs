//! The connection that a request came on.

use axum::Router;
use std::net::SocketAddr;

/// The properties of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionInfo {
    /// The address at the other end: the client's, or that of a proxy in between.
    pub(crate) peer: SocketAddr,
    /// `true` if the connection uses TLS.
    pub(crate) tls: bool,
}

/// A service that may use what is known of a request's connection.
pub(crate) trait ServeConnection {
    /// Returns this service for the requests of one connection.
    fn on(&self, connection: Option<ConnectionInfo>) -> Self;
}

impl ServeConnection for Router {
    fn on(&self, _: Option<ConnectionInfo>) -> Self {
        self.clone()
    }
}
