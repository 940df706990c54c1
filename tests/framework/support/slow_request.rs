//! A request that ends when the test wants it to.

use devstack::{DEFAULT_TIMEOUT, RunningService, reqwest::StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The two parts of the body.
const BODY: [&str; 2] = ["{\"body\": \"slow", " and steady\"}"];

/// The answer of a server that wants to have the body (RFC 9110, section 10.1.1).
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// A request that creates a note. The service has a part of its body and waits for the rest, so the request holds its
/// generation and counts as in flight.
pub(crate) struct SlowRequest(TcpStream);

impl SlowRequest {
    /// Sends the head and the first part of the body. Returns when the handler reads the body, so not before the request
    /// has a generation.
    ///
    /// # Panics
    /// If the service answers without the rest of the body.
    pub(crate) async fn start(running: &RunningService<'_>) -> Self {
        let [first, rest] = BODY;
        let length = first.len() + rest.len();
        let head = format!(
            "POST /v1/notes HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        );
        let mut stream = TcpStream::connect(&running.at.public).await.expect("the service listens");
        stream.write_all(head.as_bytes()).await.expect("the service reads");
        let mut answer = [0; CONTINUE.len()];
        timely(stream.read_exact(&mut answer)).await.expect("an interim answer");
        assert_eq!(String::from_utf8_lossy(&answer), CONTINUE);
        stream.write_all(first.as_bytes()).await.expect("the service reads");
        Self(stream)
    }

    /// Sends the rest of the body. Returns the status of the answer.
    pub(crate) async fn finish(mut self) -> StatusCode {
        self.send_rest().await;
        let mut status_line = [0; "HTTP/1.1 200".len()];
        timely(self.0.read_exact(&mut status_line)).await.expect("an answer");
        let (_, code) = status_line.split_at("HTTP/1.1 ".len());
        StatusCode::from_bytes(code).expect("a status")
    }

    /// Sends the rest of the body, and waits until the service closes the connection. Returns the whole answer.
    pub(crate) async fn finish_and_wait_for_close(mut self) -> String {
        self.send_rest().await;
        let mut answer = String::new();
        timely(self.0.read_to_string(&mut answer)).await.expect("an answer, and a clean close");
        answer
    }

    async fn send_rest(&mut self) {
        self.0.write_all(BODY[1].as_bytes()).await.expect("the service reads");
    }
}

async fn timely<T>(reading: impl Future<Output = T>) -> T {
    timeout(DEFAULT_TIMEOUT, reading).await.expect("the service answers in time")
}
