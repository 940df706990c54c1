//! Calls to another service, with a key that rotates while they run.
//!
//! ```text
//! send ─► timeout ─► refresh on 401: requests a reload ─► retry ─► limit ─► add the key in service ─► trace ─► transport
//! ```
//!
//! The clients of all generations share one key. So a call that began on an older generation goes on with the new key.

mod add_key;
mod delivery;
pub(crate) mod endpoint;
mod error;
mod key;
mod refresh_on_401;
pub(crate) mod retry;
mod trace_attempts;
pub(crate) mod transport;

pub use delivery::DeliveryError;
pub use endpoint::{ApiEndpoint, KeyHeader};
pub use error::CallError;

use super::{build_error::BuildError, context::LoadContext, rejection::Rejection, resource::Resource};
use crate::{credentials::api_key::ApiKey, secrets::credential::Credential, traces::Tracer};
use add_key::AddKey;
use axum::{
    body::Bytes,
    http::{HeaderName, HeaderValue, Request, Response, header},
};
use key::{ClientKey, VersionedKey};
use refresh_on_401::RefreshOn401;
use retry::RetryPolicy;
use std::{fmt, sync::Arc};
use tokio::{sync::Semaphore, time::Instant};
use tower::{
    ServiceBuilder, ServiceExt, layer::layer_fn, limit::GlobalConcurrencyLimitLayer, retry::RetryLayer,
    timeout::TimeoutLayer,
};
use trace_attempts::TraceAttempts;
use transport::Transport;

/// The largest body of a response, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// A client of one other service, with the key of one credential. Clones are the same client.
/// [`Build::client`](crate::Build::client) makes one.
///
/// ```
/// use axum::{body::Bytes, http::Request};
/// use vestibule::{ApiClient, CallError};
///
/// async fn charge(payments: &ApiClient, charge: String) -> Result<bool, CallError> {
///     let request = Request::post("/charges")
///         .header("content-type", "application/json")
///         .header("idempotency-key", "the charge's id")
///         .body(Bytes::from(charge))
///         .expect("it is a request");
///     Ok(payments.send(request).await?.status().is_success())
/// }
/// ```
#[derive(Clone)]
pub struct ApiClient(Arc<ClientInner>);

struct ClientInner {
    endpoint: ApiEndpoint,
    /// `None` if the other side needs no key.
    key: Option<Arc<ClientKey>>,
    permits: Arc<Semaphore>,
    transport: Transport,
    user_agent: HeaderValue,
    tracer: Tracer,
}

impl ApiClient {
    /// Makes a client. Its key, if it has one, comes into service when the client is published.
    ///
    /// It shares the key with `before`, the client in service, if both send it to the same place: a new key must not go
    /// to an old URL. It shares connections, with the authorities that they trust, and permits if the settings for these
    /// are the same.
    ///
    /// # Errors
    /// As [`Build::client`](crate::Build::client).
    pub(crate) async fn open(
        credential: Option<&Credential<ApiKey>>,
        endpoint: &ApiEndpoint,
        before: Option<&Self>,
        context: &LoadContext<'_>,
    ) -> Result<Self, BuildError> {
        let before = before.map(|before| &*before.0);
        let transport = match before {
            Some(before) if before.endpoint.url.is_https() == endpoint.url.is_https() => before.transport.clone(),
            _ => Transport::new(&endpoint.url, MAX_BODY, context.files).await.map_err(BuildError::Fault)?,
        };
        let key_before = match before {
            Some(before) if before.sends_key_to(endpoint) => before.key.as_deref(),
            _ => None,
        };
        let key = match credential {
            Some(credential) => Some(Arc::new(client_key(credential, endpoint, key_before, context)?)),
            None => None,
        };
        let permits = match before {
            Some(before) if before.endpoint.concurrency == endpoint.concurrency => before.permits.clone(),
            _ => Arc::new(Semaphore::new(endpoint.concurrency.get())),
        };
        Ok(Self(Arc::new(ClientInner {
            endpoint: endpoint.clone(),
            key,
            permits,
            transport,
            user_agent: HeaderValue::try_from(format!("{}/{}", context.package.name, context.package.version))
                .unwrap_or(HeaderValue::from_static("vestibule")),
            tracer: context.tracer.clone(),
        })))
    }

    /// Sends a request, and returns the response, whatever its status. The body of the response has 1 MiB at most.
    ///
    /// - **URI.** The URI of the request is a path, with a query if needed. It is joined to the base URL. `/` is the base
    ///   URL itself.
    /// - **Retries.** A request that could not be sent is tried again. An idempotent request (GET, HEAD, PUT, DELETE,
    ///   OPTIONS, TRACE, or any with an `Idempotency-Key`) is also tried again after 408, 429, 502, 503, 504 or a broken
    ///   connection. The pauses have full jitter, and are no shorter than `Retry-After`.
    /// - **Leases.** If the lease of the key has ended, nothing is sent. A reload is under way then, or will be soon.
    /// - **401.** A 401 requests a reload, once in 30 s per version of the key. If that brings another version, the call is
    ///   made again with it. Otherwise the 401 is returned.
    /// - **Redirects.** A redirect is returned and never followed: the key must not go to a place that another host names.
    ///
    /// # Errors
    /// [`CallError`] if there is no complete response. It quotes no query, header or body.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, CallError> {
        let ClientInner { endpoint, key, permits, transport, user_agent, tracer, .. } = &*self.0;
        *request.uri_mut() = endpoint.url.join(request.uri()).ok_or(CallError::OutsideBaseUrl)?;
        // If several hosts share an address, another `Host` would be another host.
        request.headers_mut().remove(header::HOST);
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| user_agent.clone());
        let deadline = Instant::now() + endpoint.timeout;
        let stack = ServiceBuilder::new()
            .layer(TimeoutLayer::new(endpoint.timeout))
            .option_layer(key.as_ref().map(|key| layer_fn(|inner| RefreshOn401::new(inner, key.clone(), deadline))))
            .layer(RetryLayer::new(RetryPolicy::new(endpoint.attempts, deadline)))
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
            .option_layer(key.as_ref().map(|key| layer_fn(|inner| AddKey::new(inner, key.clone()))))
            .layer(layer_fn(|inner| TraceAttempts::new(inner, tracer.clone())))
            .service(transport.for_call(deadline));
        let answer = stack.oneshot(request).await.map_err(|error| CallError::of(error, endpoint.timeout));
        log_call(endpoint, &answer);
        answer
    }

    /// Sends a message as [`send`](Self::send) does. Returns `Ok` if the status of the response is a 2xx, even if its body
    /// is incomplete.
    ///
    /// ```
    /// use axum::{body::Bytes, http::Request};
    /// use std::time::Duration;
    /// use vestibule::ApiClient;
    ///
    /// /// Returns the pause before the next attempt, or `None` if there need not be another one.
    /// async fn deliver(client: &ApiClient, message: Request<Bytes>, attempts: u32) -> Option<Duration> {
    ///     match client.deliver(message).await {
    ///         Ok(()) => None,
    ///         Err(error) if error.permanent => None,
    ///         Err(error) => Some(error.pause(attempts)),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// [`DeliveryError`] if the message was not accepted. Its text quotes as little as that of a [`CallError`].
    pub async fn deliver(&self, message: Request<Bytes>) -> Result<(), DeliveryError> {
        delivery::accepted(self.send(message).await)
    }
}

/// Makes the key of a client from a credential.
fn client_key(
    credential: &Credential<ApiKey>,
    endpoint: &ApiEndpoint,
    before: Option<&ClientKey>,
    context: &LoadContext<'_>,
) -> Result<ClientKey, BuildError> {
    let header = match &endpoint.key_header {
        KeyHeader::Bearer => header::AUTHORIZATION,
        KeyHeader::Configured(header) => header.name().clone(),
        KeyHeader::Named(name) => HeaderName::try_from(*name)
            .map_err(|_| BuildError::bug("the name of the header for an API key is not valid"))?,
    };
    let (version, lease) = (credential.version().clone(), credential.lease.clone());
    let key = VersionedKey::new(version, credential.shared(), lease, endpoint, header);
    let rejection = if endpoint.rejects_key_with_403 { "the answer was 401 or 403" } else { "the answer was 401" };
    Ok(ClientKey::new(key, before, Rejection::of(credential, rejection), context.reload_requests))
}

fn log_call(endpoint: &ApiEndpoint, answer: &Result<Response<Bytes>, CallError>) {
    let server = endpoint.url.authority();
    match answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            tracing::debug!(server.address = server, http.response.status_code = status, "a call ended");
        }
        Err(error) => tracing::debug!(server.address = server, %error, "a call failed"),
    }
}

impl ClientInner {
    /// Returns `true` if both send the key to the same place, in the same header.
    fn sends_key_to(&self, endpoint: &ApiEndpoint) -> bool {
        self.endpoint.url == endpoint.url && self.endpoint.key_header == endpoint.key_header
    }
}

impl Resource for ApiClient {
    fn publish(&self) {
        if let Some(key) = &self.0.key {
            key.publish();
        }
    }

    fn rejection(&self) -> Option<Rejection> {
        self.0.key.as_ref()?.rejection()
    }

    fn is_rejected(&self) -> bool {
        self.0.key.as_ref().is_some_and(|key| key.is_rejected())
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credential = self.0.key.as_ref().map(|key| key.credential());
        let url = &self.0.endpoint.url;
        f.debug_struct("ApiClient").field("credential", &credential).field("url", url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
