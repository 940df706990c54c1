//! Calls to another service, with a key that rotates while they run.
//!
//! ```text
//! send ─► timeout ─► renew: a 401 asks for a trip ─► retry ─► limit ─► the key in service ─► transport
//! ```
//!
//! One key is shared by the clients of all generations, so a call that was begun on an older one goes on with the new
//! key.

mod deliver;
mod error;
mod key;
mod refresh_on_401;
mod retry;
mod transport;

pub use deliver::DeliveryError;
pub use error::CallError;

use super::{build_error::BuildError, context::LoadContext, resource::Resource};
use crate::{
    config::base_url::BaseUrl,
    credentials::api_key::ApiKey,
    secrets::credential::{Credential, Name},
};
use axum::{
    body::Bytes,
    http::{HeaderName, HeaderValue, Request, Response, header},
};
use key::{AddKey, Keys};
use refresh_on_401::RefreshOn401;
use retry::RetryPolicy;
use serde::Serialize;
use std::{
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};
use tower::{
    ServiceBuilder, ServiceExt, layer::layer_fn, limit::GlobalConcurrencyLimitLayer, retry::RetryLayer,
    timeout::TimeoutLayer,
};
use transport::Transport;

/// The other side of an API key: where it is, and how it is called.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ApiEndpoint {
    /// What paths are joined to. The key goes to no other host.
    pub url: BaseUrl,
    /// How long a call may take, with all attempts and the pauses between them.
    pub timeout: Duration,
    /// How often a call is tried at most; once more after a 401, with another key.
    pub attempts: NonZeroU32,
    /// How many attempts are under way at a time, over all generations.
    pub concurrency: NonZeroUsize,
    /// What bears the key.
    pub key_header: KeyHeader,
}

/// The header that bears an API key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum KeyHeader {
    /// `Authorization: Bearer <key>`.
    #[default]
    Bearer,
    /// This header, the key alone: `x-api-key`, say.
    Named(&'static str),
}

impl ApiEndpoint {
    /// The service at `url`: 10 s, 3 attempts, 32 at once, `Authorization: Bearer`.
    pub fn at(url: BaseUrl) -> Self {
        Self {
            url,
            timeout: Duration::from_secs(10),
            attempts: NonZeroU32::new(3).expect("3 is not zero"),
            concurrency: NonZeroUsize::new(32).expect("32 is not zero"),
            key_header: KeyHeader::default(),
        }
    }
}

/// A client of one other service, with the key of one credential. A handle: clones are the same client.
#[derive(Clone)]
pub struct ApiClient(Arc<Client>);

struct Client {
    credential: Name,
    api: ApiEndpoint,
    keys: Arc<Keys>,
    permits: Arc<Semaphore>,
    transport: Transport,
    user_agent: HeaderValue,
}

impl ApiClient {
    /// A client whose key comes into service when it is published. It shares key, connections and places with the one
    /// before it while the key goes to the same place: a new key must not follow an old URL.
    pub(crate) fn open(
        credential: &Credential<ApiKey>,
        api: &ApiEndpoint,
        before: Option<&Self>,
        context: &LoadContext<'_>,
    ) -> Result<Self, BuildError> {
        let header = match api.key_header {
            KeyHeader::Bearer => header::AUTHORIZATION,
            KeyHeader::Named(name) => HeaderName::try_from(name)
                .map_err(|_| BuildError::bug("the name of the header that bears an API key is none"))?,
        };
        let before = before.map(|before| &*before.0);
        let same_place = before.filter(|before| before.api.url == api.url && before.api.key_header == api.key_header);
        let transport = match before.filter(|before| before.api.url.is_https() == api.url.is_https()) {
            Some(before) => before.transport.clone(),
            None => Transport::new(&api.url).map_err(BuildError::Fault)?,
        };
        let same_limit = before.filter(|before| before.api.concurrency == api.concurrency);
        let user_agent = HeaderValue::try_from(format!("{}/{}", context.package.name, context.package.version))
            .unwrap_or(HeaderValue::from_static("vestibule"));
        Ok(Self(Arc::new(Client {
            credential: credential.name(),
            api: api.clone(),
            keys: Arc::new(Keys::new(
                key::VersionedKey::new(credential.version().clone(), credential, api.key_header, header),
                same_place.map(|before| &*before.keys),
                context.reload_requests,
                credential.name(),
            )),
            permits: same_limit
                .map_or_else(|| Arc::new(Semaphore::new(api.concurrency.get())), |before| before.permits.clone()),
            transport,
            user_agent,
        })))
    }

    /// Sends a request and returns the whole answer, of 1 MiB at most, whatever its status.
    ///
    /// - The request's URI is a path, and perhaps a query; it is joined to the base URL, and `/` is that itself.
    /// - Tried again, after pauses with full jitter that also keep to `Retry-After`: what cannot do harm twice (GET, HEAD,
    ///   PUT, DELETE, OPTIONS, TRACE, or anything with an `Idempotency-Key`) after 408, 429, 502, 503, 504 or a broken
    ///   connection; and anything that could not be sent at all.
    /// - A 401 asks for a reload, once in 30 s for one version of the key. If that brings another version, the call is
    ///   made again with it; otherwise the 401 is returned.
    /// - A redirect is returned, never followed: the key must not go where another host points.
    ///
    /// # Errors
    /// [`CallError`], which quotes neither the URL's query nor a header or body.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, CallError> {
        let Client { api, keys, permits, transport, user_agent, .. } = &*self.0;
        *request.uri_mut() = api.url.join(request.uri()).ok_or(CallError::Elsewhere)?;
        // Another name for the host would be another host where several share an address.
        request.headers_mut().remove(header::HOST);
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| user_agent.clone());
        let deadline = Instant::now() + api.timeout;
        let stack = ServiceBuilder::new()
            .layer(TimeoutLayer::new(api.timeout))
            .layer(layer_fn(|inner| RefreshOn401::new(inner, keys.clone(), deadline)))
            .layer(RetryLayer::new(RetryPolicy::new(api.attempts, deadline)))
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
            .layer(layer_fn(|inner| AddKey::new(inner, keys.clone())))
            .service(transport.until(deadline));
        stack.oneshot(request).await.map_err(|error| match error.downcast() {
            Ok(error) => *error,
            Err(_) => CallError::Timeout(api.timeout),
        })
    }
}

impl Resource for ApiClient {
    fn publish(&self) {
        self.0.keys.publish();
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Client { credential, api, .. } = &*self.0;
        f.debug_struct("ApiClient").field("credential", credential).field("url", &api.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
