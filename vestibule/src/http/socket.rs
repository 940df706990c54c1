//! Sockets, before and after their handshake.

use super::{
    connection::{CLOSING_GRACE, Rest},
    connections::Place,
    upgraded::Half,
};
use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

/// A socket that listens.
pub(crate) enum ListenerSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket that was accepted.
pub(super) enum Socket {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl ListenerSocket {
    /// Returns the address of a TCP socket.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Accepts a connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Socket::Tcp(stream, peer)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }
}

/// A socket after its handshake.
pub(super) enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// A socket that has a place among the open connections. The place is free again when the socket is dropped, also if the
/// connection speaks another protocol by then.
///
/// A shutdown reads what the client still sends, and drops it: unread bytes would reset the connection at its close, and the
/// client would lose the end of its response (RFC 9112, section 9.6).
pub(super) struct PlacedIo {
    io: Io,
    place: Place,
    /// `None` until our side is shut down.
    linger: Option<Linger>,
}

/// The time after our side of a connection is shut down, until the client has shut its own down.
struct Linger {
    deadline: Pin<Box<Sleep>>,
    /// `true` if the client has bytes on the way. If not, nobody waits.
    is_client_sending: bool,
}

impl PlacedIo {
    pub(super) fn new(io: Io, place: Place) -> Self {
        Self { io, place, linger: None }
    }
}

impl Io {
    /// Reads bytes as they are on the wire. `true` if there were some, `false` if the client sends no more.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut bytes = [MaybeUninit::uninit(); 8 * 1024];
        let mut bytes = ReadBuf::uninit(&mut bytes);
        let read = match self {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, &mut bytes),
            Self::Tls(io) => Pin::new(io.get_mut().0).poll_read(cx, &mut bytes),
            Self::Unix(io) => Pin::new(io).poll_read(cx, &mut bytes),
        };
        read.map(|read| read.is_ok() && !bytes.filled().is_empty())
    }
}

impl Linger {
    fn poll(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<()> {
        // First: a client that sends without a pause uses the budget of the task up.
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            match io.poll_discard(cx) {
                Poll::Ready(true) => self.is_client_sending = true,
                Poll::Pending if self.is_client_sending => return Poll::Pending,
                Poll::Ready(false) | Poll::Pending => return Poll::Ready(()),
            }
        }
    }
}

/// Calls a method of the socket, whichever it is.
macro_rules! forward {
    ($self:ident, $io:ident => $call:expr) => {
        match &mut $self.io {
            Io::Tcp($io) => $call,
            Io::Tls($io) => $call,
            Io::Unix($io) => $call,
        }
    };
}

impl AsyncRead for PlacedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.place.connection.ensure_not_cut(Half::Reads, cx)?;
        forward!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for PlacedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.place.connection.ensure_not_cut(Half::Writes, cx)?;
        forward!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.place.connection.ensure_not_cut(Half::Writes, cx)?;
        forward!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.place.connection.ensure_not_cut(Half::Writes, cx)?;
        let this = &mut *self;
        let linger = if let Some(linger) = &mut this.linger {
            linger
        } else {
            ready!(forward!(this, io => Pin::new(io).poll_shutdown(cx)))?;
            let is_client_sending = match this.place.connection.shut_down() {
                Rest::OfHandler => return Poll::Ready(Ok(())),
                Rest::OfBody => true,
                Rest::Unknown => false,
            };
            this.linger.insert(Linger { deadline: Box::pin(sleep(CLOSING_GRACE)), is_client_sending })
        };
        linger.poll(&mut this.io, cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.place.connection.ensure_not_cut(Half::Writes, cx)?;
        forward!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
        }
    }
}
