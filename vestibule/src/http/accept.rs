//! Accepts connections: turns a socket into a connection that speaks HTTP. The connection is plain, or it begins with a
//! TLS handshake that uses the certificate in service at that moment.

use super::{client::ClientCertificate, connection_info::ConnectionInfo};
use axum::http::Request;
use axum_server::accept::Accept;
use futures_util::future::BoxFuture;
use rustls::ServerConfig;
use std::{
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

/// The timeout of a handshake. Each handshake has a task of its own, so other connections do not wait for it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The first byte of a TLS connection: a record with a handshake message (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// The problem for a client that used `http` in place of `https`.
const USE_HTTPS: &str = r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"this port speaks HTTPS: use https:// in place of http://"}"#;

/// A function that returns the TLS configuration of the generation in service, or `None` if the listener does not use
/// TLS.
type TlsInService = Arc<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>;

/// The acceptor of one listener's connections.
#[derive(Clone)]
pub(super) struct Acceptor(TlsInService);

impl Acceptor {
    /// Makes an acceptor. It calls `in_service` for each connection.
    pub(super) fn new(in_service: impl Fn() -> Option<Arc<ServerConfig>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(in_service))
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = Stream;
    type Service = Identified<S>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let in_service = self.0.clone();
        Box::pin(async move {
            stream.set_nodelay(true)?;
            let peer = stream.peer_addr()?;
            let stream = timeout(HANDSHAKE_TIMEOUT, handshake(stream, in_service)).await??;
            let chain = match &stream {
                Either::Left(_) => None,
                Either::Right(stream) => stream.get_ref().1.peer_certificates(),
            };
            let client = match chain {
                None => None,
                Some(chain) => Some(ClientCertificate::of(chain).ok_or_else(unreadable_certificate)?),
            };
            let connection = ConnectionInfo { peer, tls: matches!(stream, Either::Right(_)) };
            Ok((stream, Identified { service, connection, client }))
        })
    }
}

/// A connection: plain, or TLS.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

fn unreadable_certificate() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the client's certificate cannot be read")
}

/// Does the TLS handshake, if TLS is on. A client that speaks plain HTTP gets a 400 that says so.
async fn handshake(mut stream: TcpStream, in_service: TlsInService) -> io::Result<Stream> {
    if in_service().is_none() {
        return Ok(Either::Left(stream));
    }
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Asks again now that the handshake begins: the client may have opened the connection long before.
    let Some(config) = in_service() else { return Ok(Either::Left(stream)) };
    if first[0] != HANDSHAKE_RECORD {
        let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n";
        let response = format!("{head}content-length: {}\r\n\r\n{USE_HTTPS}", USE_HTTPS.len());
        stream.write_all(response.as_bytes()).await?;
        stream.shutdown().await?;
        // Unread bytes would reset the connection at its close, and the client would lose the response.
        tokio::io::copy(&mut stream.take(64 * 1024), &mut tokio::io::sink()).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
    }
    Ok(Either::Right(Box::new(TlsAcceptor::from(config).accept(stream).await?)))
}

/// A service whose requests carry what is known of their connection.
#[derive(Clone, Debug)]
pub(super) struct Identified<S> {
    service: S,
    connection: ConnectionInfo,
    client: Option<ClientCertificate>,
}

impl<S: tower::Service<Request<B>>, B> tower::Service<Request<B>> for Identified<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.connection);
        if let Some(client) = &self.client {
            request.extensions_mut().insert(client.clone());
        }
        self.service.call(request)
    }
}
