//! The addresses of a database's name: one that is silent does not use up the time of the others.

use super::{inlet, pool::LOGIN_TIMEOUT};
use sqlx::{PgConnection, postgres::PgConnectOptions};
use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// The shortest time for an address: a lost SYN is sent again after a second.
const SHORTEST_SHARE: Duration = Duration::from_secs(1);

/// The longest time, in milliseconds, for which a server takes nothing of what a relay sends. A statement that waits for a
/// lock takes nothing either.
#[cfg(target_os = "linux")]
const UNTAKEN_TIMEOUT: u32 = 15 * 60 * 1000;

/// Connects if an address of the name is silent and a later one is not. Otherwise returns `None`: the driver tries the
/// addresses in turn as well, and waits for each as long as the operating system does. It is not asked to before it was given
/// up once, because this costs a connection more if the first address answers.
pub(super) async fn connect_past_silent(options: &PgConnectOptions) -> Option<Result<PgConnection, sqlx::Error>> {
    if options.get_host().starts_with('/') {
        return None;
    }
    connect_past_silent_of(&lookup(options.get_host(), options.get_port()).await.ok()?, options).await
}

async fn connect_past_silent_of(
    addresses: &[SocketAddr],
    options: &PgConnectOptions,
) -> Option<Result<PgConnection, sqlx::Error>> {
    if addresses.len() < 2 {
        return None;
    }
    let (stream, has_silent) = first_that_answers(addresses).await.ok()?;
    if !has_silent {
        return None;
    }
    Some(inlet::connect(options.clone(), async |_| Ok(Some(stream))).await)
}

/// Connects to the first address of a name that answers.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    Ok(first_that_answers(&lookup(host, port).await?).await?.0)
}

async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// Returns the first connection, and `true` if an address before it is silent. Each address has an equal share of the time of
/// a log-in, and a second at least.
///
/// # Errors
/// The error of the last address.
async fn first_that_answers(addresses: &[SocketAddr]) -> io::Result<(TcpStream, bool)> {
    let mut has_silent = false;
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in addresses {
        let share = LOGIN_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        match timeout(share.max(SHORTEST_SHARE), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                set_options(&stream)?;
                return Ok((stream, has_silent));
            }
            Ok(Err(error)) => last = error,
            Err(_) => {
                has_silent = true;
                last = ErrorKind::TimedOut.into();
            }
        }
    }
    Err(last)
}

/// Sets the options of a connection that a relay uses. It sends each part of a statement at once, and it is closed if the
/// server takes nothing for long, although nobody waits for it any more.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, UNTAKEN_TIMEOUT)?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use sqlx::postgres::PgSslMode;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
    };

    /// AuthenticationOk and ReadyForQuery.
    const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

    const TOO_SHORT: &[u8] = b"R\0\0\0\0";

    /// Fills the queue of a listener that nobody accepts from: the kernel leaves further connections without an answer.
    async fn silent(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(address).expect("nobody listens there");
        let listener = socket.listen(1).expect("it is bound");
        let mut queued = Vec::new();
        loop {
            match timeout(Duration::from_secs(1), TcpStream::connect(address)).await {
                Ok(connected) => queued.push(connected.expect("it listens")),
                Err(_) if queued.len() > 1 => break,
                Err(_) => (),
            }
        }
        (listener, queued)
    }

    async fn answer(listener: &TcpListener, message: &[u8]) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        assert!(stream.read(&mut [0; 1024]).await.expect("it is open") > 0, "a startup message");
        stream.write_all(message).await.expect("somebody reads");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    #[tokio::test]
    async fn a_relay_waits_for_no_acknowledgement_before_it_sends_the_rest_of_a_statement() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect("127.0.0.1", address.port()).await.unwrap();
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn the_driver_gets_to_an_address_after_one_that_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answers = listener.local_addr().unwrap();
        let silent_address = SocketAddr::from(([127, 0, 0, 2], answers.port()));
        let _silent = silent(silent_address).await;
        let options =
            PgConnectOptions::new_without_pgpass().username("a").host("db.internal").ssl_mode(PgSslMode::Disable);
        let addresses = [silent_address, answers];
        let connecting = async { drop(connect_past_silent_of(&addresses, &options).await.unwrap().unwrap()) };
        tokio::join!(connecting, answer(&listener, WELCOME));
        // The driver panics.
        let refused = async { connect_past_silent_of(&addresses, &options).await.unwrap().unwrap_err() };
        let (error, ()) = tokio::join!(refused, answer(&listener, TOO_SHORT));
        assert!(error.to_string().contains("too short"), "{error}");
        // The driver does these itself.
        for addresses in [vec![answers], vec![answers, silent_address]] {
            assert!(connect_past_silent_of(&addresses, &options).await.is_none(), "{addresses:?}");
        }
    }
}
