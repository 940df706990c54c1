//! HTTP/1 by hand.

use crate::support::time_waits::let_time_pass;
use devstack::{DEFAULT_TIMEOUT, RunningService, reqwest::StatusCode};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// A connection to the public listener.
pub(super) struct Socket(TcpStream);

impl Socket {
    pub(super) async fn connect(running: &RunningService<'_>) -> Self {
        Self(TcpStream::connect(&running.at.public).await.expect("the system's queue has room"))
    }

    pub(super) async fn send(mut self, text: &str) -> Self {
        // The service may have answered and closed before it has read everything.
        let _ = self.0.write_all(text.as_bytes()).await;
        self
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

    /// Asks for the page, and reads its head.
    pub(super) async fn begin(&self, running: &RunningService<'_>) -> Socket {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let stream = socket.connect(running.at.public.parse().expect("an address")).await.expect("it listens");
        let request = format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", Self::path());
        let mut socket = Socket(stream).send(&request).await;
        assert!(socket.head().await.starts_with("HTTP/1.1 200"));
        socket
    }

    pub(super) async fn read_whole(&self, running: &RunningService<'_>) -> StatusCode {
        let answer = running.get(&Self::path()).await;
        let status = answer.status();
        assert!(answer.bytes().await.expect("a whole page").len() > Self::NOTES * 100_000);
        status
    }
}
