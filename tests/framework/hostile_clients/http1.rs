//! HTTP/1 by hand.

use crate::support::{time_waits::let_time_pass, tls_client::TlsClient};
use devstack::{DEFAULT_TIMEOUT, RunningService, reqwest::StatusCode};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// A connection to the public listener, with or without TLS.
pub(super) struct Socket(Box<dyn Stream>);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Socket {
    pub(super) async fn connect(running: &RunningService<'_>) -> Self {
        Self::open(&running.at.public, None, false).await.expect("there is no handshake")
    }

    /// Connects, and does the handshake of TLS if there is a client for it. `None` if that fails.
    pub(super) async fn open(address: &str, tls: Option<&TlsClient>, has_small_buffer: bool) -> Option<Self> {
        let socket = TcpSocket::new_v4().expect("a socket");
        if has_small_buffer {
            socket.set_recv_buffer_size(4096).expect("a small buffer");
        }
        let stream = socket.connect(address.parse().expect("an address")).await.expect("the system's queue has room");
        match tls {
            None => Some(Self(Box::new(stream))),
            Some(tls) => Some(Self(Box::new(tls.handshake(stream).await.ok()?))),
        }
    }

    pub(super) async fn send(mut self, text: &str) -> Self {
        // The service may have answered and closed before it has read everything.
        self.write(text.as_bytes()).await;
        self
    }

    /// Returns `false` if the connection ended.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok() && self.0.flush().await.is_ok()
    }

    pub(super) async fn read_to_end(&mut self) {
        let _ = io::copy(&mut self.0, &mut io::sink()).await;
    }

    /// Closes the half of the client, and waits for the end of the other one without reading.
    pub(super) async fn half_close(&mut self) {
        let _ = self.0.shutdown().await;
        self.ended().await;
    }

    /// Waits for the end of the connection without reading.
    pub(super) async fn ended(&mut self) {
        let _ = self.0.tcp().ready(Interest::ERROR).await;
    }

    /// Sends this many frames without a pause, and reads the answers. Returns early if the connection ends.
    pub(super) async fn flood(&mut self, number: u32, frame: impl Fn(u32) -> Vec<u8>) {
        let (mut answers, mut requests) = io::split(&mut self.0);
        let sending = async {
            for index in 0..number {
                if requests.write_all(&frame(index)).await.is_err() {
                    return;
                }
            }
        };
        let mut nowhere = io::sink();
        // The service would wait for somebody who reads the answers.
        tokio::select! {
            () = sending => (),
            _ = io::copy(&mut answers, &mut nowhere) => (),
        }
    }

    /// Reads the head of an answer.
    pub(super) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match timeout(DEFAULT_TIMEOUT, self.0.read_u8()).await.expect("the service answers in time") {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).expect("a head is text")
    }

    /// Returns `false` if the connection ended.
    pub(super) async fn read_one_byte_a_second(&mut self) -> bool {
        let_time_pass("the client reads a byte a second", Duration::from_secs(1)).await;
        self.0.read_u8().await.is_ok()
    }
}

/// A page that is larger than the buffers of a connection.
pub(super) struct BigPage;

impl BigPage {
    const NOTES: usize = 100;

    pub(super) async fn create(running: &RunningService<'_>) -> Self {
        let body = json!({ "body": "n".repeat(100_000) }).to_string();
        for _ in 0..Self::NOTES {
            let answer = running.post_json("/v1/notes", body.clone()).await;
            assert_eq!(answer.status(), StatusCode::CREATED);
        }
        Self
    }

    fn path() -> String {
        format!("/v1/notes?limit={}", Self::NOTES)
    }

    pub(super) fn request() -> String {
        format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", Self::path())
    }

    pub(super) async fn read_whole(&self, running: &RunningService<'_>) -> StatusCode {
        let answer = running.get(&Self::path()).await;
        let status = answer.status();
        assert!(answer.bytes().await.expect("a whole page").len() > Self::NOTES * 100_000);
        status
    }
}
