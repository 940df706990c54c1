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

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use super::*;
    use crate::{
        metrics::MetricsRegistry,
        request_context::{CurrentSpan, RequestContext},
    };
    use axum::http::HeaderValue;
    use std::num::NonZeroU64;
    use tower::util::BoxService;

    /// Returns the `traceparent` that the other side gets. `given` is that of the request before this layer.
    async fn sent(tracer: &Tracer, given: Option<&'static str>, request: Option<RequestContext>) -> String {
        let inner = BoxService::new(tower::service_fn(async |request: Request<Bytes>| {
            let named = request.headers().get("traceparent").map_or(&b""[..], |value| value.as_bytes());
            Ok(Response::new(Bytes::copy_from_slice(named)))
        }));
        let mut attempts = TraceAttempts::new(inner, tracer.clone());
        let mut call = Request::new(Bytes::new());
        if let Some(given) = given {
            call.headers_mut().insert("traceparent", HeaderValue::from_static(given));
        }
        let response = match request {
            Some(request) => request.within(|| attempts.call(call)),
            None => attempts.call(call),
        };
        let body = response.await.expect("the other side answers").into_body();
        String::from_utf8(body.to_vec()).expect("a header is text")
    }

    #[tokio::test]
    async fn an_attempt_names_its_own_span_or_that_of_its_request_if_it_is_not_sampled() {
        const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let within = |is_sampled| {
            let span = CurrentSpan { id: NonZeroU64::new(7).unwrap(), is_sampled };
            Some(RequestContext { trace_id: 1, generation: 1, debug: false, span: Some(span) })
        };
        let tracer = Tracer::register(&MetricsRegistry::new("test"));
        assert_eq!(sent(&tracer, Some(GIVEN), None).await, GIVEN, "traces are off");
        tracer.set_largest_queue(8);
        assert_eq!(sent(&tracer, None, None).await, "", "it belongs to no request");
        let of_request = "00-00000000000000000000000000000001-0000000000000007-00";
        assert_eq!(sent(&tracer, None, within(false)).await, of_request);
        let own = sent(&tracer, None, within(true)).await;
        assert!(own.starts_with(&of_request[..36]) && own.ends_with("-01") && own[..53] != of_request[..53], "{own}");
        let own = sent(&tracer, Some(GIVEN), within(true)).await;
        assert!(own.starts_with(&GIVEN[..36]) && own.ends_with("-01") && own != GIVEN, "{own}");
    }
}
