//! The door: all that the listener knows of a service.

use super::problem::Problem;
use crate::application::{Application, Generation, Live};
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
pub struct Door<A: Application>(Live<A>);

impl<A: Application> Door<A> {
    /// A door to what `live` holds.
    pub fn new(live: Live<A>) -> Self {
        Self(live)
    }
}

impl<A: Application> Clone for Door<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Application> fmt::Debug for Door<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.0).finish()
    }
}

impl<A, B> tower::Service<http::Request<B>> for Door<A>
where
    A: Application,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer<A>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answer<A> {
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
struct Pass<A: Application> {
    _generation: Arc<Generation<A>>,
    _permit: OwnedSemaphorePermit,
}

pin_project_lite::pin_project! {
    /// The response of a generation, or 503 where too many requests are in flight.
    #[project = AnswerProjection]
    #[allow(missing_docs)]
    pub enum Answer<A: Application> {
        #[doc(hidden)]
        Full,
        #[doc(hidden)]
        Routed {
            #[pin]
            routed: axum::routing::future::RouteFuture<Infallible>,
            pass: Option<Pass<A>>,
        },
    }
}

impl<A: Application> Future for Answer<A> {
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
