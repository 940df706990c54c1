//! A client that loads a server: connections that send one request after the other. It has a thread of its own, and does
//! as little as possible for a request, because it uses the same machine.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// The answers to a client's requests.
pub(crate) struct Answers {
    /// The time of each request that succeeded, the shortest first.
    pub(crate) times: Vec<Duration>,
    /// The number of requests that failed.
    pub(crate) failed: usize,
    /// The requests per second that succeeded.
    pub(crate) rate: f64,
}

/// Sends requests for `path` on this number of connections, as long as any are `left`. The caller may change `left`.
pub(crate) fn send(address: SocketAddr, path: &str, connections: usize, left: Arc<AtomicUsize>) -> Answers {
    let path = path.to_owned();
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(send_all(address, path, connections, left))
    });
    client.join().expect("the client does not panic")
}

async fn send_all(address: SocketAddr, path: String, connections: usize, left: Arc<AtomicUsize>) -> Answers {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(send_in_turn(address, path.clone(), left.clone()));
    }
    let (mut times, mut failed) = (Vec::new(), 0);
    for (sent, not_served) in clients.join_all().await {
        times.extend(sent);
        failed += not_served;
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    Answers { times, failed, rate }
}

async fn send_in_turn(address: SocketAddr, path: String, left: Arc<AtomicUsize>) -> (Vec<Duration>, usize) {
    let (mut times, mut failed) = (Vec::new(), 0);
    let mut connection = None;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let start = Instant::now();
        if get(&mut connection, address, &path).await.is_ok() {
            times.push(start.elapsed());
        } else {
            failed += 1;
            connection = None;
        }
    }
    (times, failed)
}

/// A connection for requests.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Gets a path, and returns the body. Connects first if there is no connection.
///
/// # Errors
/// If there is no connection, or if the answer is not a 200.
pub(crate) async fn get<'a>(
    connection: &'a mut Option<Connection>,
    address: SocketAddr,
    path: &str,
) -> io::Result<&'a [u8]> {
    if connection.is_none() {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        *connection = Some(Connection { stream, buffer: Vec::with_capacity(16 * 1024) });
    }
    let Connection { stream, buffer } = connection.as_mut().expect("it was opened just now");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
    buffer.clear();
    let (head, length) = loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break (head + 4, content_length(&buffer[..head])?);
        }
    };
    while buffer.len() < head + length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(&buffer[head..])
}

/// Returns the length of the body after this head.
fn content_length(head: &[u8]) -> io::Result<usize> {
    let head = str::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = head.lines();
    if lines.next().is_none_or(|status| !status.starts_with("HTTP/1.1 200")) {
        return Err(io::Error::other("not a 200"));
    }
    for line in lines {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return value.trim().parse().map_err(io::Error::other);
        }
    }
    Err(io::Error::other("the head has no length"))
}
