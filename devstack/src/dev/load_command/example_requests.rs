//! The requests of a load.

use reqwest::{Client, RequestBuilder};

use crate::dev::dev_metadata::{self, DevMetadata, ExamplePost};
use crate::dev::error::DevError;
use crate::testing::json::post_json;

/// One of this many requests is a POST, if the project names one.
pub(super) const WRITE_EVERY: u64 = 10;

/// The requests of a load.
pub(super) struct LoadRequests {
    /// The URL of a GET request.
    pub(super) get: String,
    /// The URL and the JSON of a POST request.
    pub(super) post: Option<(String, String)>,
}

impl LoadRequests {
    /// Takes the requests from a project's metadata, which must name a GET request.
    pub(super) fn new(metadata: DevMetadata, public_url: &str) -> Result<Self, DevError> {
        let Some(get) = metadata.requests.get else {
            return Err(dev_metadata::expected(dev_metadata::GET));
        };
        let mut post = None;
        if let Some(ExamplePost { path, body }) = metadata.requests.post {
            post = Some((format!("{public_url}{}", path.0), body.0));
        }
        Ok(Self { get: format!("{public_url}{}", get.0), post })
    }

    /// Prepares the request with this number.
    pub(super) fn request(&self, number: u64, client: &Client) -> RequestBuilder {
        match &self.post {
            Some((url, body)) if number.is_multiple_of(WRITE_EVERY) => post_json(client, url, body.clone()),
            _ => client.get(&self.get),
        }
    }
}
