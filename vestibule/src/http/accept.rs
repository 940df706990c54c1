//! From an accepted socket to a connection that speaks HTTP: in the clear, or through a handshake with the certificate
//! that is in service at that moment.

use super::client::ClientCertificate;
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

/// How long a client may take for its handshake. It has a task of its own, so that others do not wait for it.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The first byte of a TLS connection: a record with a handshake message (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What somebody reads who forgot the `s` of `https`.
const SPEAK_TLS: &str = r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"this port speaks HTTPS: use https:// in place of http://"}"#;

/// The TLS configuration of the generation in service; `None`: it speaks none.
type InService = Arc<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>;

/// Accepts the connections of one listener.
#[derive(Clone)]
pub(super) struct Acceptor(InService);

impl Acceptor {
    /// `in_service` is asked anew for each connection.
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
            let stream = timeout(HANDSHAKE, begin(stream, in_service)).await??;
            let chain = match &stream {
                Either::Left(_) => None,
                Either::Right(stream) => stream.get_ref().1.peer_certificates(),
            };
            let unknown = io::Error::new(io::ErrorKind::InvalidData, "nobody can tell whose certificate it is");
            let client = chain.map(|chain| ClientCertificate::of(chain).ok_or(unknown)).transpose()?;
            Ok((stream, Identified { service, client }))
        })
    }
}

type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

async fn begin(mut stream: TcpStream, in_service: InService) -> io::Result<Stream> {
    if in_service().is_none() {
        return Ok(Either::Left(stream));
    }
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Asked when the handshake begins: the connection may have been opened long before.
    let Some(config) = in_service() else { return Ok(Either::Left(stream)) };
    if first[0] != HANDSHAKE_RECORD {
        let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n";
        let answer = format!("{head}content-length: {}\r\n\r\n{SPEAK_TLS}", SPEAK_TLS.len());
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // What is left unread when a socket is closed resets the connection, and the answer with it.
        tokio::io::copy(&mut stream.take(64 * 1024), &mut tokio::io::sink()).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak TLS"));
    }
    Ok(Either::Right(Box::new(TlsAcceptor::from(config).accept(stream).await?)))
}

/// A service, and the client that its requests come from.
#[derive(Clone, Debug)]
pub(super) struct Identified<S> {
    service: S,
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
        if let Some(client) = &self.client {
            request.extensions_mut().insert(client.clone());
        }
        self.service.call(request)
    }
}
