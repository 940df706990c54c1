//! The layer that adds the key to each attempt.

use super::{error::CallError, key::ClientKey};
use crate::secrets::id::VersionId;
use axum::{
    body::Bytes,
    http::{Request, Response},
};
use futures_util::future::BoxFuture;
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tower::Service;

/// The version of the key that a response rejects. It is an extension of that response.
#[derive(Clone)]
pub(super) struct RejectedVersion(pub(super) VersionId);

/// A layer that adds the key in service to each attempt, and remembers whether it was rejected.
#[derive(Clone)]
pub(super) struct AddKey<S> {
    inner: S,
    key: Arc<ClientKey>,
}

impl<S> AddKey<S> {
    pub(super) fn new(inner: S, key: Arc<ClientKey>) -> Self {
        Self { inner, key }
    }
}

impl<S> Service<Request<Bytes>> for AddKey<S>
where
    S: Service<Request<Bytes>, Response = Response<Bytes>, Error = CallError, Future: Send + 'static>,
{
    type Response = Response<Bytes>;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Bytes>) -> Self::Future {
        let (client_key, key) = (self.key.clone(), self.key.current());
        if key.has_ended() {
            let credential = client_key.credential();
            return Box::pin(async move { Err(CallError::KeyEnded { credential }) });
        }
        key.put_on(request.headers_mut());
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            if client_key.answered(&key, response.status()) {
                response.extensions_mut().insert(RejectedVersion(key.version.clone()));
            }
            Ok(response)
        })
    }
}
