//! One request to one address.

use super::failure::AddressFailure;
use crate::{
    cause::{OtherSide, RootCause},
    config::base_url::BaseUrl,
    credentials::json,
    secrets::resolver::MAX_BYTES,
};
use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use serde::{Deserialize, de::IgnoredAny};
use std::time::Duration;
use zeroize::Zeroizing;

/// The timeout of a connection attempt.
const CONNECT: Duration = Duration::from_secs(2);

/// The longest time for which an unused connection stays open. Load balancers close theirs after 60 s.
const IDLE: Duration = Duration::from_secs(50);

/// The largest answer, in bytes: the largest secret, each of whose characters may be an escape, and what is around it.
const MAX_ANSWER: usize = 6 * MAX_BYTES + 64 * 1024;

/// The longest part of the server's own messages that an error quotes, in characters.
const MAX_QUOTED: usize = 300;

/// A call that is the same at every address.
pub(super) struct VaultCall<'a> {
    method: Method,
    /// The path below `/v1/`.
    path: &'a str,
    token: Option<HeaderValue>,
    body: Bytes,
    /// `true` if it may be sent again after an answer.
    may_repeat: bool,
}

/// An answer. Its body is wiped.
pub(super) struct VaultAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// An answer that says no.
#[derive(Deserialize)]
struct ErrorAnswer {
    errors: Vec<String>,
}

/// The parts of which an answer that gives something has one at least.
#[derive(Deserialize)]
struct GivingAnswer {
    auth: Option<IgnoredAny>,
    data: Option<IgnoredAny>,
    lease_duration: Option<IgnoredAny>,
}

impl VaultAnswer {
    /// Returns the body as text.
    pub(super) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap_or_default()
    }

    /// Returns `true` if it is an answer of the server that says no, and not one of something before it.
    pub(super) fn is_rejection(&self) -> bool {
        json::<ErrorAnswer>(self.text(), "errors").is_ok()
    }

    /// Returns `true` if it has the form of a server's answer, and is not the page of a proxy or a load balancer.
    pub(super) fn is_of_server(&self) -> bool {
        self.status == StatusCode::NO_CONTENT || self.is_rejection() || (self.may_give() && self.gives_something())
    }

    /// Returns `true` if something may come with this status. The answer for a deleted version is a 404 with its metadata.
    fn may_give(&self) -> bool {
        self.status.is_success() || self.status == StatusCode::NOT_FOUND
    }

    fn gives_something(&self) -> bool {
        match json(self.text(), "an answer") {
            Ok(GivingAnswer { auth, data, lease_duration }) => auth.or(data).or(lease_duration).is_some(),
            Err(_) => false,
        }
    }

    /// Returns `true` if it has a page for a browser.
    pub(super) fn is_markup(&self) -> bool {
        self.text().trim_start().starts_with('<')
    }

    /// Returns the server's own messages. There are none in an answer with a secret.
    pub(super) fn errors(&self) -> Vec<String> {
        match json::<ErrorAnswer>(self.text(), "errors") {
            Ok(ErrorAnswer { errors }) => errors,
            Err(_) => Vec::new(),
        }
    }

    /// Returns the server's own messages in one line. Only those about a login may be quoted: those of a secrets engine may
    /// have a part of what they are about.
    pub(super) fn quoted_errors(&self) -> String {
        let line = self.errors().join("; ").split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().filter(|c| !c.is_control()).take(MAX_QUOTED).collect()
    }
}

/// Connections to all addresses.
pub(super) struct VaultClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl<'a> VaultCall<'a> {
    pub(super) fn get(path: &'a str, token: &HeaderValue) -> Self {
        Self { method: Method::GET, path, token: Some(token.clone()), body: Bytes::new(), may_repeat: true }
    }

    /// Makes a call that has the server make something. It is a GET too, but each answer is another thing.
    pub(super) fn make(path: &'a str, token: &HeaderValue) -> Self {
        Self { may_repeat: false, ..Self::get(path, token) }
    }

    /// Makes a call that changes something. The body is wiped.
    pub(super) fn post(path: &'a str, token: &HeaderValue, body: &Zeroizing<Vec<u8>>) -> Self {
        Self {
            method: Method::POST,
            path,
            token: Some(token.clone()),
            body: Bytes::from_owner(body.clone()),
            may_repeat: false,
        }
    }

    /// Makes a login, which needs no token. The body is wiped.
    pub(super) fn login(path: &'a str, body: &Zeroizing<Vec<u8>>) -> Self {
        let body = Bytes::from_owner(body.clone());
        Self { method: Method::POST, path, token: None, body, may_repeat: false }
    }

    pub(super) fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    pub(super) fn is_login(&self) -> bool {
        self.token.is_none()
    }

    /// Returns the request for one address.
    pub(super) fn request(&self, address: &BaseUrl, headers: &HeaderMap) -> Option<Request<Full<Bytes>>> {
        let reference: Uri = format!("/v1/{}", self.path).parse().ok()?;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = address.join(&reference)?;
        *request.headers_mut() = headers.clone();
        if let Some(token) = &self.token {
            request.headers_mut().insert("x-vault-token", token.clone());
        }
        Some(request)
    }
}

impl VaultClient {
    pub(super) fn new(tls: ClientConfig) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            // Nobody gets to know why a connection of HTTP/2 has ended: that the server wants a certificate, for example.
            .build(connector.enable_http1().wrap_connector(http));
        Self { client }
    }

    /// Sends a request to an address, and reads the whole answer.
    pub(super) async fn send(
        &self,
        address: &BaseUrl,
        request: Request<Full<Bytes>>,
    ) -> Result<VaultAnswer, AddressFailure> {
        let host = address.authority();
        let (head, body) = match self.client.request(request).await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                let cause = RootCause::of(&error);
                let text = format!("connecting to {host} failed: {cause}");
                return Err(AddressFailure::not_connected(text, cause.remedy(OtherSide::Vault)));
            }
        };
        let Ok(body) = Limited::new(body, MAX_ANSWER).collect().await else {
            let text = format!("the answer of {host} broke off, or is larger than {} KiB", MAX_ANSWER / 1024);
            return Err(AddressFailure::out_of_service(text, "check what is between the service and the server"));
        };
        Ok(VaultAnswer { status: head.status, headers: head.headers, body: wiped(body.aggregate()) })
    }
}

/// Copies a body into one block of memory of its size, which is wiped.
fn wiped(mut body: impl hyper::body::Buf) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; body.remaining()]);
    body.copy_to_slice(&mut bytes);
    bytes
}

/// Writes a JSON object of texts, into memory that is wiped and that does not grow.
pub(super) fn json_object(fields: &[(&str, Zeroizing<String>)]) -> Zeroizing<Vec<u8>> {
    // No escape is longer than 6 bytes.
    let room = fields.iter().map(|(name, value)| name.len() + 6 * value.len() + 8).sum();
    let mut json = Zeroizing::new(Vec::with_capacity(room));
    for (name, value) in fields {
        let separator = if json.is_empty() { b'{' } else { b',' };
        json.push(separator);
        for (text, end) in [(*name, ":"), (value.as_str(), "")] {
            serde_json::to_writer(&mut *json, text).expect("memory can be written to");
            json.extend_from_slice(end.as_bytes());
        }
    }
    json.push(b'}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
    #[test]
    fn a_body_is_json_and_does_not_outgrow_its_room() {
        let value = "\u{1}\"\\\n\u{7f}ä😀".repeat(50);
        let fields = [("role_id", Zeroizing::new("r".to_owned())), ("secret_id", Zeroizing::new(value.clone()))];
        let room: usize = fields.iter().map(|(name, value)| name.len() + 6 * value.len() + 8).sum();
        let body = json_object(&fields);
        assert!(body.len() <= room);
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read, serde_json::json!({ "role_id": "r", "secret_id": value }));
    }
}
