//! Turns an accepted socket into a connection that speaks HTTP. The connection is plain, or it begins with a TLS handshake
//! that uses the certificate in service at that moment.

use super::{
    bad_head::BadHead,
    client::ClientCertificate,
    command_socket::CommandUser,
    policy::{ListenerPolicy, ListenerTls},
    socket::{Io, Socket},
};
use crate::config::settings::connections::ConnectionsConfig;
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

/// The first byte of a TLS connection: a record with a handshake message (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// The pause before the first probe of a silent connection, and between two probes.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection that speaks HTTP.
pub(super) struct HttpConnection {
    pub(super) io: Io,
    /// The address at the other end. `None` at the command socket.
    pub(super) peer: Option<SocketAddr>,
    pub(super) client: Option<ClientCertificate>,
    /// The user at the other end of the command socket.
    pub(super) user: Option<CommandUser>,
    /// The configuration that the handshake used.
    pub(super) tls: Option<ListenerTls>,
}

/// Does the TLS handshake, if TLS is on. Takes as long as the client likes: the watchdog ends it.
///
/// # Errors
/// If the handshake fails, or the socket.
pub(super) async fn handshake(
    socket: Socket,
    limits: &ConnectionsConfig,
    policy: &impl ListenerPolicy,
) -> io::Result<HttpConnection> {
    let (stream, peer) = match socket {
        Socket::Tcp(stream, peer) => (stream, peer),
        Socket::Unix(stream) => {
            let user = Some(CommandUser(stream.peer_cred()?.uid()));
            return Ok(HttpConnection { io: Io::Unix(stream), peer: None, client: None, user, tls: None });
        }
    };
    set_options(&stream, limits)?;
    handshake_of_tcp(stream, peer, policy).await
}

async fn handshake_of_tcp(
    mut stream: TcpStream,
    peer: SocketAddr,
    policy: &impl ListenerPolicy,
) -> io::Result<HttpConnection> {
    let plain = |stream| HttpConnection { io: Io::Tcp(stream), peer: Some(peer), client: None, user: None, tls: None };
    if policy.tls().is_none() {
        return Ok(plain(stream));
    }
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Asks again now that the handshake begins: the client may have opened the connection long before.
    let Some(tls) = policy.tls() else { return Ok(plain(stream)) };
    if first[0] != HANDSHAKE_RECORD {
        refuse_plain_http(&mut stream).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
    }
    let stream = TlsAcceptor::from(tls.config.clone()).accept(stream).await?;
    let client = match stream.get_ref().1.peer_certificates() {
        None => None,
        Some(chain) => Some(ClientCertificate::of(chain).ok_or_else(unreadable_certificate)?),
    };
    Ok(HttpConnection { io: Io::Tls(Box::new(stream)), peer: Some(peer), client, user: None, tls: Some(tls) })
}

async fn refuse_plain_http(stream: &mut TcpStream) -> io::Result<()> {
    let (head, body) = BadHead::NO_TLS.response().into_parts();
    let mut response = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", head.status, body.len());
    for (name, value) in &head.headers {
        response += &format!("{name}: {}\r\n", value.to_str().expect("it is ASCII"));
    }
    response += "\r\n";
    response += &body;
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    // Unread bytes would reset the connection at its close, and the client would lose the response.
    tokio::io::copy(&mut stream.take(64 * 1024), &mut tokio::io::sink()).await?;
    Ok(())
}

fn unreadable_certificate() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the client's certificate cannot be read")
}

/// Sets the options of a socket, so that one whose peer vanished is closed.
fn set_options(stream: &TcpStream, limits: &ConnectionsConfig) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    #[cfg(target_os = "linux")]
    {
        sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
        let unacknowledged = u32::try_from(limits.unacknowledged_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, unacknowledged)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = limits;
    Ok(())
}
