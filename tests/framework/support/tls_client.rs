//! A TLS client that shows the details of a handshake: the certificate of the server, and if a session was resumed.

use devstack::{Authority, Identity};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A TLS client that keeps its sessions, to resume them.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Creates a client that trusts an authority.
    pub(crate) fn new(authority: &Authority) -> Self {
        Self::speaking(authority, &[&TLS13, &TLS12], None, &[])
    }

    /// Creates a client that shows a certificate of its own.
    pub(crate) fn showing(authority: &Authority, identity: &Identity) -> Self {
        Self::speaking(authority, &[&TLS13, &TLS12], Some(identity), &[])
    }

    /// Creates a client with these versions of TLS, and with these protocols for ALPN.
    pub(crate) fn speaking(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Identity>,
        protocols: &[&[u8]],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificates(authority.certificate()).remove(0)).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.private_key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(certificates(&identity.certificate), key).expect("they fit")
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Connects to an address.
    pub(crate) async fn connect(&self, address: &str) -> io::Result<Connection> {
        Ok(Connection(self.handshake(TcpStream::connect(address).await?).await?))
    }

    /// Does the handshake on a TCP connection.
    pub(crate) async fn handshake(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = "localhost".try_into().expect("a name");
        TlsConnector::from(self.0.clone()).connect(name, socket).await
    }

    /// Makes one request on a new connection. Returns the connection and the answer.
    pub(crate) async fn get(&self, address: &str, path: &str) -> io::Result<(Connection, String)> {
        let mut connection = self.connect(address).await?;
        let answer = connection.get(path).await?;
        Ok((connection, answer))
    }

    /// Makes one request on a TCP connection that is open, and on which no handshake has begun.
    pub(crate) async fn get_over(&self, socket: TcpStream, path: &str) -> io::Result<String> {
        Connection(self.handshake(socket).await?).get(path).await
    }
}

/// A connection after its handshake.
pub(crate) struct Connection(TlsStream<TcpStream>);

impl Connection {
    /// Returns the certificate that the server has shown.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.get_ref().1.peer_certificates().expect("it has shown one")[0].clone()
    }

    /// Returns the protocol that ALPN has chosen.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.0.get_ref().1.alpn_protocol()
    }

    /// Returns `true` if the handshake has resumed a session.
    pub(crate) fn resumed(&self) -> bool {
        self.0.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Makes a request in HTTP/1.1. Returns the head and the body of the answer. The connection stays open.
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<String> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
                if body.len() >= length.parse().expect("a number") {
                    return Ok(text.into_owned());
                }
            }
            if self.0.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Returns the certificates of a chain in PEM.
pub(crate) fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|one| one.expect("a certificate")).collect()
}
