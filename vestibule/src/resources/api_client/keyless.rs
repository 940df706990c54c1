//! A client of another service that needs no key.

use super::{MAX_BODY, endpoint::ApiEndpoint, error::CallError, retry::RetryPolicy, transport::Transport};
use crate::exit::Fault;
use axum::{
    body::Bytes,
    http::{Request, Response},
};
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, retry::RetryLayer, timeout::TimeoutLayer};

/// A client of another service that needs no key.
pub(crate) struct KeylessClient {
    endpoint: ApiEndpoint,
    transport: Transport,
}

impl KeylessClient {
    /// Makes a client.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn open(endpoint: ApiEndpoint) -> Result<Self, Fault> {
        let transport = Transport::new(&endpoint.url, MAX_BODY)?;
        Ok(Self { endpoint, transport })
    }

    /// Sends a request as [`ApiClient::send`](super::ApiClient::send) does.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, CallError> {
        let Self { endpoint, transport } = self;
        *request.uri_mut() = endpoint.url.join(request.uri()).ok_or(CallError::OutsideBaseUrl)?;
        let deadline = Instant::now() + endpoint.timeout;
        let stack = ServiceBuilder::new()
            .layer(TimeoutLayer::new(endpoint.timeout))
            .layer(RetryLayer::new(RetryPolicy::new(endpoint.attempts, deadline)))
            .service(transport.for_call(deadline));
        stack.oneshot(request).await.map_err(|error| CallError::of(error, endpoint.timeout))
    }
}
