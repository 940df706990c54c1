//! A server that stands in for another side, and does not do as it should.

use super::tls_client::certificates;
use devstack::Identity;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// PostgreSQL's answer to a request for TLS: it has it.
pub(crate) const HAS_TLS: &[u8] = b"S";

/// A server on this machine. It ends when this is dropped.
pub(crate) struct StandIn {
    port: u16,
    _accepting: JoinSet<()>,
}

impl StandIn {
    /// Starts a server that does this with each connection, and then closes it.
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        Self::start_at(0, serve).await
    }

    /// Starts a server at this port that sends everything on to `to`, and back.
    pub(crate) async fn relay(port: u16, to: impl ToSocketAddrs + Clone + Send + Sync + 'static) -> Self {
        Self::start_at(port, move |mut near| {
            let to = to.clone();
            async move {
                let mut far = TcpStream::connect(to).await.expect("it listens");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        })
        .await
    }

    async fn start_at<F: Future<Output = ()> + Send + 'static>(
        port: u16,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(serve(connection));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, _accepting: accepting }
    }

    /// Starts a server that does the handshake of TLS with this identity, and nothing else.
    pub(crate) async fn tls(identity: &Identity) -> Self {
        Self::tls_after(identity, b"").await
    }

    /// Starts a server that answers the first bytes with this, and then does the handshake of TLS with this identity.
    pub(crate) async fn tls_after(identity: &Identity, answer: &'static [u8]) -> Self {
        let acceptor = acceptor(identity);
        Self::start(move |connection| {
            let handshake = handshake(acceptor.clone(), connection, answer);
            async { drop(handshake.await) }
        })
        .await
    }

    /// Starts a server that answers the first bytes with this, does the handshake of TLS with this identity, and sends
    /// everything on to `to`, and back.
    pub(crate) async fn tls_before(
        identity: &Identity,
        answer: &'static [u8],
        to: impl ToSocketAddrs + Clone + Send + Sync + 'static,
    ) -> Self {
        let acceptor = acceptor(identity);
        Self::start(move |near| {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            async move {
                let Some(mut near) = handshake(acceptor, near, answer).await else { return };
                let mut far = TcpStream::connect(to).await.expect("it listens");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        })
        .await
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    mut connection: TcpStream,
    answer: &'static [u8],
) -> Option<TlsStream<TcpStream>> {
    if !answer.is_empty() {
        let _ = connection.read(&mut [0; 1024]).await;
        let _ = connection.write_all(answer).await;
    }
    acceptor.accept(connection).await.ok()
}

pub(super) fn acceptor(identity: &Identity) -> TlsAcceptor {
    let key = PrivateKeyDer::from_pem_slice(identity.private_key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(certificates(&identity.certificate), key)
        .expect("they fit");
    TlsAcceptor::from(Arc::new(config))
}
