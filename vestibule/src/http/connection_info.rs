//! The connection that a request came on.

use super::exchange::Exchange;
use std::{net::SocketAddr, sync::Arc};

/// The address at the other end of the connection of a request to the admin listener.
#[derive(Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

/// The properties of a request's connection.
pub(crate) struct ConnectionInfo {
    /// The address at the other end: the client's, or that of a proxy in between.
    pub(crate) peer: SocketAddr,
    /// `true` if the connection uses TLS.
    pub(crate) tls: bool,
    /// The request, as the watchdog sees it.
    pub(super) exchange: Arc<Exchange>,
}
