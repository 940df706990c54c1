//! The layer that handles a rejected key, most often a 401: it requests a reload, and makes the call again if that brings
//! another key.

use super::{add_key::RejectedVersion, error::CallError, key::ClientKey};
use axum::{
    body::Bytes,
    http::{Request, Response},
};
use futures_util::future::BoxFuture;
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tokio::time::Instant;
use tower::{Service, ServiceExt};

/// A layer that makes a call once more if the response rejects the key and another version of it comes into service.
#[derive(Clone)]
pub(super) struct RefreshOn401<S> {
    inner: S,
    key: Arc<ClientKey>,
    deadline: Instant,
}

impl<S> RefreshOn401<S> {
    pub(super) fn new(inner: S, key: Arc<ClientKey>, deadline: Instant) -> Self {
        Self { inner, key, deadline }
    }
}

impl<S> Service<Request<Bytes>> for RefreshOn401<S>
where
    S: Service<Request<Bytes>, Response = Response<Bytes>, Error = CallError, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Bytes>;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    /// Is always ready. The call itself waits for the inner layers, because the timeout covers only the call.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let Self { inner, key, deadline } = self.clone();
        Box::pin(async move {
            let response = inner.clone().oneshot(request.clone()).await?;
            let Some(RejectedVersion(rejected)) = response.extensions().get() else { return Ok(response) };
            // Waits for half of the time that is left. The other half is for the second call.
            let now = Instant::now();
            let until = now + deadline.saturating_duration_since(now) / 2;
            if key.wait_for_other_version(rejected, until).await { inner.oneshot(request).await } else { Ok(response) }
        })
    }
}
