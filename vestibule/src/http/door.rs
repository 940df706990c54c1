//! The door: all that the listener knows of a service.

use super::Problem;
use crate::{Generation, Live, Service};
use axum::{
    body::{Body, Bytes},
    extract::Request,
    http,
    response::{IntoResponse, Response},
};
use http_body::Frame;
use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::OwnedSemaphorePermit;

/// Sends each request to the generation in service, which lives until the response's last byte. Costs a borrow of the
/// watch channel and a clone of an `Arc`, a permit, and a box around the body: `benches/door.rs` measures it.
pub struct Door<S: Service>(Live<S>);

impl<S: Service> Door<S> {
    /// A door to what `live` holds.
    pub fn new(live: Live<S>) -> Self {
        Self(live)
    }
}

impl<S: Service> Clone for Door<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Service> fmt::Debug for Door<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.0).finish()
    }
}

impl<S, B> tower::Service<http::Request<B>> for Door<S>
where
    S: Service,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answer<S> {
        let generation = self.0.generation();
        let Ok(permit) = generation.in_flight.clone().try_acquire_owned() else {
            return Answer::Full;
        };
        let request = request.map(Body::new);
        let routed = tower::Service::<Request>::call(&mut generation.router.clone(), request);
        Answer::Routed { routed, pass: Some(Pass { _generation: generation, _permit: permit }) }
    }
}

/// What a request holds from routing to its last byte.
struct Pass<S: Service> {
    _generation: Arc<Generation<S>>,
    _permit: OwnedSemaphorePermit,
}

pin_project_lite::pin_project! {
    /// The response of a generation, or 503 where too many requests are in flight.
    #[project = AnswerProjection]
    #[allow(missing_docs)]
    pub enum Answer<S: Service> {
        #[doc(hidden)]
        Full,
        #[doc(hidden)]
        Routed {
            #[pin]
            routed: axum::routing::future::RouteFuture<Infallible>,
            pass: Option<Pass<S>>,
        },
    }
}

impl<S: Service> Future for Answer<S> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnswerProjection::Full => {
                Poll::Ready(Ok(Problem::busy("too many requests are in flight; try again soon").into_response()))
            }
            AnswerProjection::Routed { routed, pass } => {
                let response = ready!(routed.poll(cx))?;
                let pass = pass.take();
                Poll::Ready(Ok(response.map(|body| Body::new(Held { body, _pass: pass }))))
            }
        }
    }
}

pin_project_lite::pin_project! {
    struct Held<P> {
        #[pin]
        body: Body,
        _pass: P,
    }
}

impl<P> http_body::Body for Held<P> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
