//! HTTP/2 by hand.

use axum::{
    body::Bytes,
    http::{Request, Response},
};
use devstack::{DEFAULT_TIMEOUT, RunningService, reqwest::StatusCode};
use futures_util::future::join_all;
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

/// A client of one connection, which is driven: it answers pings.
pub(super) struct Http2Client {
    requests: SendRequest<Bytes>,
    host: String,
    responses: Vec<ResponseFuture>,
    /// Answers whose bodies nobody reads. A dropped one would be a reset.
    heads: Vec<Result<Response<RecvStream>, h2::Error>>,
    begun: Vec<(ResponseFuture, SendStream<Bytes>)>,
    _driver: JoinHandle<()>,
}

impl Http2Client {
    /// Connects, and never lets the service send a body.
    pub(super) async fn without_window(running: &RunningService<'_>) -> Self {
        Self::connect(running, Builder::new().initial_window_size(0)).await
    }

    pub(super) async fn ordinary(running: &RunningService<'_>) -> Self {
        Self::connect(running, &mut Builder::new()).await
    }

    async fn connect(running: &RunningService<'_>, builder: &mut Builder) -> Self {
        let stream = TcpStream::connect(&running.at.public).await.expect("it listens");
        let (requests, connection) = builder.handshake(stream).await.expect("a handshake");
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self {
            requests,
            host: running.at.public.clone(),
            responses: Vec::new(),
            heads: Vec::new(),
            begun: Vec::new(),
            _driver: driver,
        }
    }

    async fn send(&mut self, path: &str, header: (&str, &str)) -> Result<ResponseFuture, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let url = format!("http://{}{path}", self.host);
        let request = Request::get(url).header(header.0, header.1).body(()).expect("a request");
        Ok(requests.send_request(request, true)?.0)
    }

    /// Sends requests until there are this many, or the service takes no more. Waits for the heads of the answers.
    pub(super) async fn request_many(mut self, path: &str, number: usize) -> Self {
        for _ in 0..number {
            match self.send(path, ("accept", "*/*")).await {
                Ok(response) => self.responses.push(response),
                Err(_) => break,
            }
        }
        self.heads = join_all(self.responses.drain(..)).await;
        self
    }

    /// Begins requests with a body of which nothing comes, until there are this many, or the service takes no more.
    pub(super) async fn begin_many(mut self, path: &str, number: usize) -> Self {
        for _ in 0..number {
            let Ok(mut requests) = self.requests.clone().ready().await else { break };
            let url = format!("http://{}{path}", self.host);
            let request = Request::post(url).header("content-type", "application/json").body(()).expect("a request");
            match requests.send_request(request, false) {
                Ok(begun) => self.begun.push(begun),
                Err(_) => break,
            }
        }
        self
    }

    /// Returns the status of an answer. `None` if the service reset the request.
    pub(super) async fn request_with_header(mut self, name: &str, value: &str) -> Option<StatusCode> {
        let response = self.send("/v1/notes", (name, value)).await.ok()?;
        Some(timeout(DEFAULT_TIMEOUT, response).await.expect("in time").ok()?.status())
    }
}

/// The beginning of a connection (RFC 9113, section 3.4), and empty SETTINGS.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The path of requests.
const PATH: &str = "/v1/notes";

/// Returns the header block of a GET (RFC 7541: indexed fields, and literals without indexing).
fn head(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, path.len().try_into().expect("a short path")];
    block.extend(path.as_bytes());
    block.extend([0x01, 1, b'a']);
    block
}

/// Returns the beginning of a connection that lets the service send no body.
pub(super) fn without_window() -> Vec<u8> {
    let (magic, no_window) = (&PREFACE[..24], [0, 4, 0, 0, 0, 0]);
    [magic, &frame(SETTINGS, 0, 0, &no_window)].concat()
}

/// Returns a frame that lets the service send one more byte of the first response.
pub(super) fn window_of_a_byte() -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())
}

/// Returns a request.
pub(super) fn request(index: u32) -> Vec<u8> {
    request_of(index, PATH)
}

/// Returns a request of a path.
pub(super) fn request_of(index: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 2 * index + 1, &head(path))
}

/// Returns a request that is reset at once.
pub(super) fn reset_request(index: u32) -> Vec<u8> {
    [request(index), frame(RST_STREAM, 0, 2 * index + 1, &8_u32.to_be_bytes())].concat()
}

/// Returns a part of one request whose head never ends.
pub(super) fn endless_head(index: u32) -> Vec<u8> {
    if index == 0 {
        return frame(HEADERS, END_STREAM, 1, &head(PATH));
    }
    let part = [b"\x00\x03x-a\x64".as_slice(), &[b'b'; 100]].concat();
    frame(CONTINUATION, 0, 1, &part)
}

/// Returns a request whose head takes a thousand times the memory when it is decompressed: it adds a field to the table, and
/// names it again and again.
pub(super) fn compressed_bomb(index: u32) -> Vec<u8> {
    let added = [b"\x40\x03x-a\x7f\xa1\x1e".as_slice(), &[b'b'; 4000]].concat();
    let block = [head(PATH), added, vec![0xbe; 12_000]].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 2 * index + 1, &block)
}
