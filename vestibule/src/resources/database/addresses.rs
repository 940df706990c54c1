//! The addresses of a database's name: one that does not answer does not use up the time of the others.

use super::{inlet, pool::LOGIN_TIMEOUT};
use sqlx::{PgConnection, postgres::PgConnectOptions};
use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
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

/// The number of the address, of those of a name, that a log-in tries first. It counts on beyond the last one.
#[derive(Default)]
pub(super) struct FirstAddress(AtomicUsize);

impl FirstAddress {
    /// Runs a log-in with this number. If it is given up, later ones begin with the next address: this one is silent, or lets
    /// in and says nothing, as a proxy whose server is gone.
    pub(super) async fn run<T>(&self, log_in: impl AsyncFnOnce(usize) -> T) -> T {
        let number = self.0.load(Ordering::Relaxed);
        let mut under_way = UnderWay { first: self, number, has_ended: false };
        let done = log_in(number).await;
        under_way.has_ended = true;
        done
    }

    /// Begins with the first address again.
    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A log-in that is under way. It is given up if it is dropped before its end.
struct UnderWay<'a> {
    first: &'a FirstAddress,
    number: usize,
    has_ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            // Several at the same time count once.
            let next = self.number.wrapping_add(1);
            let _ = self.first.0.compare_exchange(self.number, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Connects to the address with the number `first`, or to the next one that answers. Returns `None` if that is the first one of the
/// name: the driver begins with it, too, and without a relay.
pub(super) async fn connect_from(
    first: usize,
    options: &PgConnectOptions,
) -> Option<Result<PgConnection, sqlx::Error>> {
    if options.get_host().starts_with('/') {
        return None;
    }
    let addresses = lookup(options.get_host(), options.get_port()).await.ok()?;
    connect_from_of(addresses, first, options).await
}

async fn connect_from_of(
    addresses: Vec<SocketAddr>,
    first: usize,
    options: &PgConnectOptions,
) -> Option<Result<PgConnection, sqlx::Error>> {
    if first.checked_rem(addresses.len())? == 0 {
        return None;
    }
    let connected = async {
        let stream = first_that_answers(addresses, first).await?;
        inlet::connect(options.clone(), async |_| Ok(Some(stream))).await
    };
    Some(connected.await)
}

/// Connects to the address with the number `first`, or to the next one that answers.
pub(super) async fn connect(host: &str, port: u16, first: usize) -> io::Result<TcpStream> {
    first_that_answers(lookup(host, port).await?, first).await
}

async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// Returns the first connection. Each address has an equal share of the time of a log-in, and a second at least.
///
/// # Errors
/// The error of the last address.
async fn first_that_answers(mut addresses: Vec<SocketAddr>, first: usize) -> io::Result<TcpStream> {
    let number = first.checked_rem(addresses.len()).unwrap_or(0);
    addresses.rotate_left(number);
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in &addresses {
        let share = LOGIN_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        match timeout(share.max(SHORTEST_SHARE), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                set_options(&stream)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = ErrorKind::TimedOut.into(),
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
    use futures_util::FutureExt;
    use sqlx::postgres::PgSslMode;
    use std::future::pending;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
    };

    /// AuthenticationOk and ReadyForQuery.
    const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

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

    async fn welcome(listener: &TcpListener) {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        assert!(stream.read(&mut [0; 1024]).await.expect("it is open") > 0, "a startup message");
        stream.write_all(WELCOME).await.expect("somebody reads");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    #[tokio::test]
    async fn a_relay_waits_for_no_acknowledgement_before_it_sends_the_rest_of_a_statement() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect("127.0.0.1", address.port(), 0).await.unwrap();
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
        let connect = async |addresses: &[SocketAddr], first: usize| {
            connect_from_of(addresses.to_vec(), first, &options).await.expect("it is not the first address")
        };
        // The silent one is the last that is tried, or the first, which costs its share.
        for (addresses, first) in [([silent_address, answers], 1), ([answers, silent_address], 3)] {
            let connecting = async { drop(connect(&addresses, first).await.expect("a session")) };
            tokio::join!(connecting, welcome(&listener));
        }
        // The driver does these itself.
        for (addresses, first) in [(vec![answers], 1), (vec![answers, silent_address], 2), (vec![], 1)] {
            assert!(connect_from_of(addresses.clone(), first, &options).await.is_none(), "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn log_ins_that_are_given_up_at_the_same_time_go_on_to_the_next_address() {
        let first = FirstAddress::default();
        let number = async || first.run(async |number| number).await;
        let mut both = [(); 2].map(|()| Box::pin(first.run(async |_| pending::<()>().await)));
        assert!(both.each_mut().map(FutureExt::now_or_never).iter().all(Option::is_none));
        drop(both);
        assert_eq!(number().await, 1);
        assert!(first.run(async |_| pending::<()>().await).now_or_never().is_none());
        assert_eq!((number().await, number().await), (2, 2), "it stays there");
        first.reset();
        assert_eq!(number().await, 0);
    }
}
