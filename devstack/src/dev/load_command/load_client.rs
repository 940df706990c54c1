//! One of the clients that share a load.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::tls::TlsInfo;
use reqwest::{Client, RequestBuilder, Response};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::dev::dev_client::DevClient;
use crate::dev::load_command::example_requests::LoadRequests;
use crate::dev::load_command::schedule::Schedule;
use crate::dev::load_command::statistics::{DerCertificate, FinishedRequest};

/// One of this many requests opens a connection, with a full TLS handshake.
pub(super) const CONNECT_EVERY: u64 = 10;

/// The limit of one request.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// One of the clients that share a load.
pub(super) struct LoadClient {
    pub(super) requests: Arc<LoadRequests>,
    pub(super) dev_client: Arc<DevClient>,
    pub(super) schedule: Arc<Schedule>,
    pub(super) ends: watch::Receiver<Option<Instant>>,
    pub(super) finished: mpsc::Sender<FinishedRequest>,
}

impl LoadClient {
    /// Sends one request after another, until the next would be due after the end.
    pub(super) async fn run(mut self) {
        let kept_client = self.new_client();
        loop {
            let (number, due) = self.schedule.next();
            tokio::select! {
                biased;
                _ = self.ends.wait_for(|end| end.is_some_and(|end| end <= due)) => return,
                () = sleep_until(due) => (),
            }
            let opens_connection = number % CONNECT_EVERY == CONNECT_EVERY / 2;
            let client = if opens_connection { self.new_client() } else { kept_client.clone() };
            let outcome = send(self.requests.request(number, &client)).await;
            let _ = self.finished.send(FinishedRequest { took: due.elapsed(), outcome }).await;
        }
    }

    fn new_client(&self) -> Client {
        self.dev_client.http().timeout(TIMEOUT).build().expect("it trusts an authority of ours")
    }
}

/// Sends a request. Returns the certificate of the connection if it has TLS, or the kind of the failure.
async fn send(request: RequestBuilder) -> Result<Option<DerCertificate>, String> {
    let answer = request.send().await.map_err(|error| failure_kind(&error).to_owned())?;
    let (status, certificate) = (answer.status(), certificate_of(&answer));
    answer.bytes().await.map_err(|error| failure_kind(&error).to_owned())?;
    if status.is_success() { Ok(certificate) } else { Err(format!("status {}", status.as_u16())) }
}

fn certificate_of(answer: &Response) -> Option<DerCertificate> {
    answer.extensions().get::<TlsInfo>()?.peer_certificate().map(Into::into)
}

fn failure_kind(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "timeout"
    } else if error.is_connect() && has_tls_cause(error) {
        "handshake failed"
    } else if error.is_connect() {
        "no connection"
    } else {
        "connection broken"
    }
}

/// Returns true if an error of rustls is among the causes.
fn has_tls_cause(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.is::<rustls::Error>() {
            return true;
        }
        next = match cause.downcast_ref::<io::Error>() {
            // `source` of an I/O error skips the error inside it.
            Some(outer) => outer.get_ref().map(|inner| inner as &dyn Error),
            None => cause.source(),
        };
    }
    false
}
