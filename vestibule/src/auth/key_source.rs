//! The source of the issuer's keys: a URL that is configured, or the issuer's own metadata (OpenID Connect Discovery 1.0,
//! RFC 8414), which names it.

use super::key_set::KeySet;
use crate::{
    blocking_reads::FileReads,
    cause::reasons,
    config::{base_url::BaseUrl, settings::auth::AuthConfig},
    exit::{Exit, Fault},
    resources::api_client::transport::Transport,
};
use axum::{
    body::Bytes,
    http::{Request, StatusCode, Uri},
};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tower::Service;

/// The largest document, in bytes.
const MAX_DOCUMENT: usize = 64 * 1024;

/// The source of an issuer's keys.
pub(super) struct KeySource {
    issuer: String,
    /// The URL of the keys, or else that of the metadata which names it.
    url: BaseUrl,
    is_metadata: bool,
    transport: Transport,
}

/// The reason for which keys could not be fetched.
pub(super) struct JwksError {
    pub(super) exit: Exit,
    pub(super) problem: String,
}

/// The part of the issuer's metadata that is used.
#[derive(Deserialize)]
struct IssuerMetadata {
    issuer: String,
    jwks_uri: String,
}

impl KeySource {
    /// Returns the source that a configuration names.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(super) async fn of(config: &AuthConfig, files: &FileReads) -> Result<Self, Fault> {
        let is_metadata = config.jwks_url.is_none();
        let url = config.jwks_url.clone().or_else(|| config.metadata_url()).expect("the configuration was checked");
        let transport = Transport::new(&url, MAX_DOCUMENT, files).await?;
        Ok(Self { issuer: config.issuer.clone(), transport, url, is_metadata })
    }

    /// Returns `true` if the configuration names this source.
    pub(super) fn is_of(&self, config: &AuthConfig) -> bool {
        let named = config.jwks_url.clone().or_else(|| config.metadata_url());
        self.issuer == config.issuer
            && self.is_metadata == config.jwks_url.is_none()
            && Some(&self.url) == named.as_ref()
    }

    /// Returns the host that is asked first.
    pub(super) fn authority(&self) -> &str {
        self.url.authority()
    }

    /// Returns the key of the configuration that names this source.
    pub(super) fn setting(&self) -> &'static str {
        if self.is_metadata { "auth.issuer" } else { "auth.jwks_url" }
    }

    /// Fetches the keys once.
    ///
    /// # Errors
    /// If the issuer does not answer with a document that has a key.
    pub(super) async fn fetch(&self, deadline: Instant) -> Result<KeySet, JwksError> {
        let document = if self.is_metadata {
            let metadata = self.get(&self.url, deadline).await?;
            let named = keys_url(&metadata, &self.issuer, self.url.is_https()).map_err(malformed)?;
            self.get(&named, deadline).await?
        } else {
            self.get(&self.url, deadline).await?
        };
        KeySet::parse(&document).map_err(malformed)
    }

    /// Gets a document. Follows no redirect: it could lead to a stranger.
    async fn get(&self, url: &BaseUrl, deadline: Instant) -> Result<Bytes, JwksError> {
        let unavailable = |problem: String| JwksError { exit: Exit::Unavailable, problem };
        let target = url.join(&Uri::from_static("/")).expect("a URL is below itself");
        let request = Request::get(target).header("accept", "application/json").body(Bytes::new());
        let request = request.expect("a URL makes a request");
        let response = match timeout_at(deadline, self.transport.for_call(deadline).call(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unavailable(reasons(&error))),
            Err(_) => return Err(unavailable("no answer came in time".into())),
        };
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            status => Err(unavailable(format!("the answer is {}", status.as_u16()))),
        }
    }
}

/// Returns the URL of the keys that the metadata of an issuer names. Metadata that came over TLS must name one with TLS.
///
/// # Errors
/// The problem, if it is of another issuer, or names a place that keys must not come from.
pub(crate) fn keys_url(metadata: &[u8], issuer: &str, came_over_tls: bool) -> Result<BaseUrl, &'static str> {
    #[expect(clippy::disallowed_methods, reason = "the metadata is public, and the error is dropped")]
    let Ok(read) = serde_json::from_slice::<IssuerMetadata>(metadata) else {
        return Err("expected a JSON object with `issuer` and `jwks_uri` as the issuer's metadata");
    };
    if read.issuer != issuer {
        return Err("the metadata is of another issuer: its `issuer` is not auth.issuer to the letter");
    }
    match BaseUrl::parse(&read.jwks_uri) {
        Some(url) if url.is_https() || !came_over_tls => Ok(url),
        _ => Err("`jwks_uri` in the metadata is not a URL with https:// and without user and query"),
    }
}

fn malformed(problem: &str) -> JwksError {
    JwksError { exit: Exit::Malformed, problem: problem.to_owned() }
}
