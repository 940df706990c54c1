//! What follows a 401.

use super::{
    error::CallError,
    key::{Keys, SentVersion},
};
use axum::{
    body::Bytes,
    http::{Request, Response, StatusCode},
};
use futures_util::future::BoxFuture;
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tokio::time::Instant;
use tower::{Service, ServiceExt};

/// Makes a call once more if it was refused, and another version of the key than the one that it bore is to be had.
#[derive(Clone)]
pub(super) struct RefreshOn401<S> {
    inner: S,
    keys: Arc<Keys>,
    deadline: Instant,
}

impl<S> RefreshOn401<S> {
    pub(super) fn new(inner: S, keys: Arc<Keys>, deadline: Instant) -> Self {
        Self { inner, keys, deadline }
    }
}

impl<S> Service<Request<Bytes>> for RefreshOn401<S>
where
    S: Service<Request<Bytes>, Response = Response<Bytes>, Error = CallError, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Bytes>;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    /// Always: what is below is waited for in the call, where the timeout sees it.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let Self { inner, keys, deadline } = self.clone();
        Box::pin(async move {
            let response = inner.clone().oneshot(request.clone()).await?;
            let refused = match response.extensions().get::<SentVersion>() {
                Some(SentVersion(version)) if response.status() == StatusCode::UNAUTHORIZED => version,
                _ => return Ok(response),
            };
            // Half of what is left, so that time is left for the call.
            let now = Instant::now();
            let until = now + deadline.saturating_duration_since(now) / 2;
            if keys.renewed(refused, until).await { inner.oneshot(request).await } else { Ok(response) }
        })
    }
}
