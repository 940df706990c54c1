//! The issuer of tokens that a running `cargo dev --auth` has.

use std::time::Duration;

use reqwest::{Client, RequestBuilder};

use crate::dev::dev_state::RunningStack;
use crate::dev::error::DevError;

/// A client of the issuer.
pub(crate) struct IssuerClient<'a> {
    url: &'a str,
    client: Client,
}

impl<'a> IssuerClient<'a> {
    /// Returns a client of the issuer, if there is one.
    pub(crate) fn new(running: &'a RunningStack) -> Option<Self> {
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
        Some(Self { url: running.issuer.as_deref()?, client: client.expect("a client without TLS needs nothing") })
    }

    /// Asks for a token.
    pub(crate) async fn token(&self, subject: &str, scope: &str) -> Result<String, DevError> {
        let query = [("subject", subject), ("scope", scope)];
        let url = reqwest::Url::parse_with_params(&format!("{}/token", self.url), query);
        self.send(self.client.post(url.expect("it is a URL"))).await
    }

    /// Replaces the issuer's key.
    pub(crate) async fn rotate(&self) -> Result<(), DevError> {
        self.send(self.client.post(format!("{}/rotate", self.url))).await.map(drop)
    }

    async fn send(&self, request: RequestBuilder) -> Result<String, DevError> {
        let answer = async { request.send().await?.error_for_status()?.text().await };
        answer.await.map_err(|error| DevError::new(format!("the issuer does not answer: {error}")))
    }
}
