//! An HTTP server on a thread of its own.

mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener};

use axum::Router;
use tokio::sync::oneshot;

use crate::stack::authority::identity::Identity;
use crate::testing::background_server::tls::TlsListener;

/// An HTTP server on a thread of its own, so that a test may block. It ends when this is dropped.
pub(super) struct BackgroundServer {
    address: SocketAddr,
    _running: oneshot::Sender<()>,
}

impl BackgroundServer {
    /// Starts a server at `address`, with TLS if there is an identity.
    pub(super) fn start(address: SocketAddr, router: Router, identity: Option<&Identity>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let bound = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let acceptor = identity.map(tls::acceptor);
        let (running, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("the listener does not block");
                let serving = async {
                    match acceptor {
                        Some(acceptor) => axum::serve(TlsListener { listener, acceptor }, router).await,
                        None => axum::serve(listener, router).await,
                    }
                };
                tokio::select! {
                    _ = serving => (),
                    _ = stopped => (),
                }
            });
            // Requests in black holes never end by themselves.
            runtime.shutdown_background();
        });
        Ok(Self { address: bound, _running: running })
    }

    /// Returns the address on which it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}
