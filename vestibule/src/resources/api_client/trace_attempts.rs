//! The layer that traces each attempt.

use super::error::CallError;
use crate::traces::Tracer;
use axum::{
    body::Bytes,
    http::{Request, Response},
};
use futures_util::future::BoxFuture;
use std::task::{Context, Poll};
use tower::Service;

/// A layer with a span for each attempt whose parent is sampled. It names the parent to the other side.
///
/// The span has no URL: its path may be a secret, as that of some webhooks is.
#[derive(Clone)]
pub(super) struct TraceAttempts<S> {
    inner: S,
    tracer: Tracer,
}

impl<S> TraceAttempts<S> {
    pub(super) fn new(inner: S, tracer: Tracer) -> Self {
        Self { inner, tracer }
    }
}

impl<S> Service<Request<Bytes>> for TraceAttempts<S>
where
    S: Service<
            Request<Bytes>,
            Response = Response<Bytes>,
            Error = CallError,
            Future = BoxFuture<'static, Result<Response<Bytes>, CallError>>,
        >,
{
    type Response = Response<Bytes>;
    type Error = CallError;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Bytes>) -> Self::Future {
        let Some(mut span) = self.tracer.begin_call(request.headers_mut()) else {
            return self.inner.call(request);
        };
        span.set_name(request.method().as_str());
        span.set("http.request.method", request.method().as_str());
        span.describe_target(request.uri());
        let response = self.inner.call(request);
        Box::pin(async move {
            let answered = response.await;
            match &answered {
                Ok(response) => {
                    let status = response.status();
                    span.set_number("http.response.status_code", status.as_u16());
                    if status.is_client_error() || status.is_server_error() {
                        span.fail(status.as_str());
                    } else {
                        span.succeed();
                    }
                }
                Err(error) => span.fail(error.error_type()),
            }
            answered
        })
    }
}
