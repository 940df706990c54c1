//! The connection that a request came on.

use std::net::SocketAddr;

/// The properties of a connection that its requests carry, as an extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionInfo {
    /// The address at the other end: the client's, or that of a proxy in between.
    pub(crate) peer: SocketAddr,
    /// `true` if the connection uses TLS.
    pub(crate) tls: bool,
}
