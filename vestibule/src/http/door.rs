//! The door: a tower service that sends each request to the generation in service.

use super::{
    access::AccessGuard, connection_info::ConnectionInfo, long_lived::LongLived, problem::Problem,
    serve::ListenerService,
};
use crate::{
    application::{Application, Generation, GenerationParts, Live},
    caught::caught,
};
use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{self, HeaderValue, StatusCode, header::CONTENT_LENGTH},
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

/// The tower service behind the public listener. It sends each request to the generation in service. The request holds
/// that generation until the last byte of its response.
///
/// A request costs a borrow of the watch channel, a clone of an `Arc`, and a permit: `benches/door.rs` measures it.
pub struct Door<A: Application> {
    live: Arc<Live<A>>,
}

impl<A: Application> Door<A> {
    /// Makes a door to the generation that `live` holds.
    pub fn new(live: Live<A>) -> Self {
        Self { live: Arc::new(live) }
    }

    /// Sends a request to the generation in service. `connection` is `None` if it came on none, as in a test.
    fn send(&self, mut request: Request, connection: Option<ConnectionInfo>) -> ResponseFuture<A> {
        let generation = self.live.generation();
        let GenerationParts { frame, debug_tokens, .. } = &**generation;
        let access = AccessGuard::begin(frame, debug_tokens, &mut request, connection, self.live.clone());
        let Ok(permit) = generation.in_flight.clone().try_acquire_owned() else {
            generation.usage.request_refused();
            return ResponseFuture::Full { access: Some(access) };
        };
        let permit = access.record.hold(permit);
        let routed = tower::Service::<Request>::call(&mut generation.router.clone(), request);
        ResponseFuture::Routed {
            routed: Some(routed),
            guard: Some(InFlightGuard::new(generation, permit)),
            access: Some(access),
        }
    }
}

impl<A: Application> Clone for Door<A> {
    fn clone(&self) -> Self {
        Self { live: self.live.clone() }
    }
}

impl<A: Application> fmt::Debug for Door<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.live).finish()
    }
}

impl<A, B> tower::Service<http::Request<B>> for Door<A>
where
    A: Application,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = http::Response<GuardedBody<A>>;
    type Error = Infallible;
    type Future = ResponseFuture<A>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> ResponseFuture<A> {
        self.send(request.map(Body::new), None)
    }
}

impl<A: Application> ListenerService for Door<A> {
    type Body = GuardedBody<A>;
    type Future = ResponseFuture<A>;

    fn answer(&self, request: Request, connection: Option<ConnectionInfo>) -> Self::Future {
        self.send(request, connection)
    }
}

/// The generation that a request holds, from routing to the last byte of its response. Its place is held until that byte went
/// to the socket.
struct InFlightGuard<A: Application> {
    generation: Arc<Generation<A>>,
    /// `None` if the exchange has it, or for a long-lived response, which has a place of its own.
    permit: Option<OwnedSemaphorePermit>,
}

impl<A: Application> InFlightGuard<A> {
    fn new(generation: Arc<Generation<A>>, permit: Option<OwnedSemaphorePermit>) -> Self {
        generation.usage.request_started();
        Self { generation, permit }
    }
}

impl<A: Application> Drop for InFlightGuard<A> {
    fn drop(&mut self) {
        self.generation.usage.request_ended();
    }
}

pin_project_lite::pin_project! {
    /// The future of a generation's response, or of a 503 if too many requests are in flight.
    #[project = ResponseFutureProjection]
    // For the variants, which are hidden. `expect` would complain about the types that the macro makes.
    #[allow(missing_docs)]
    pub enum ResponseFuture<A: Application> {
        #[doc(hidden)]
        Full { access: Option<AccessGuard> },
        #[doc(hidden)]
        Routed {
            #[pin]
            routed: Option<axum::routing::future::RouteFuture<Infallible>>,
            guard: Option<InFlightGuard<A>>,
            access: Option<AccessGuard>,
        },
    }

    impl<A: Application> PinnedDrop for ResponseFuture<A> {
        fn drop(this: Pin<&mut Self>) {
            // The client has left. What the handler holds is dropped within its request, and may panic.
            if let ResponseFutureProjection::Routed { mut routed, access: Some(access), .. } = this.project() {
                let _ = access.within(|| caught(|| routed.set(None)));
            }
        }
    }
}

impl<A: Application> Future for ResponseFuture<A> {
    type Output = Result<http::Response<GuardedBody<A>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (mut response, mut access, guard) = match self.project() {
            ResponseFutureProjection::Full { access } => {
                let access = access.take().expect(POLLED_ONCE);
                access.record.failed("too_many_requests_in_flight");
                let problem = Problem::busy("too many requests are in flight; try again soon");
                (access.within(|| problem.into_response()), access, None)
            }
            ResponseFutureProjection::Routed { routed, guard, access } => {
                let routed = routed.as_pin_mut().expect(POLLED_ONCE);
                let response = ready!(access.as_ref().expect(POLLED_ONCE).within(|| routed.poll(cx)))?;
                let (access, mut guard) = (access.take().expect(POLLED_ONCE), guard.take());
                if let Some(InFlightGuard { generation, permit }) = &mut guard {
                    generation.usage.answered(response.status().is_server_error(), access.record.started);
                    if response.extensions().get::<LongLived>().is_some() {
                        *permit = None;
                        access.record.give_back();
                    }
                }
                (response, access, guard)
            }
        };
        leave_content_out(&mut response, &access);
        access.answer(&mut response);
        Poll::Ready(Ok(response.map(|body| GuardedBody { body, access, _guard: guard })))
    }
}

/// Leaves out the content of a response that must have none (RFC 9110, sections 6.4.1 and 15.3.6), and its `Content-Length`: a
/// 204 must have none, and that of a 304 is axum's 0 (section 8.6). axum leaves the content out for a HEAD of some routes, and hyper only over HTTP/1.
fn leave_content_out(response: &mut Response, access: &AccessGuard) {
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        StatusCode::RESET_CONTENT => {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        // A body that was left out before says nothing of its length.
        _ if access.record.method == "HEAD" && !http_body::Body::is_end_stream(response.body()) => {
            if let Some(length) = http_body::Body::size_hint(response.body()).exact() {
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
        }
        _ => return,
    }
    // What the body holds is dropped within its request, and may panic.
    let _ = access.within(|| caught(|| *response.body_mut() = Body::empty()));
}

/// The promise of whoever polls a future.
const POLLED_ONCE: &str = "a future is not polled after it has ended";

pin_project_lite::pin_project! {
    /// The body of a response. It holds the generation of its request, and the place unless it is long-lived, until it is
    /// dropped.
    pub struct GuardedBody<A: Application> {
        #[pin]
        body: Body,
        access: AccessGuard,
        _guard: Option<InFlightGuard<A>>,
    }

    impl<A: Application> PinnedDrop for GuardedBody<A> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _ = this.access.within(|| caught(|| this.body.set(Body::empty())));
        }
    }
}

impl<A: Application> http_body::Body for GuardedBody<A> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut this = self.project();
        let polled = this.access.within(|| this.body.as_mut().poll_frame(cx));
        this.access.body_polled(&polled, this.body.is_end_stream());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        application::Build,
        config::Config,
        openapi::OpenApiRouter,
        package::Package,
        request_context::RequestContext,
        resources::build_error::BuildError,
        testing::{Harness, MemoryManager, idle_service::NoSecrets},
    };
    use axum::{extract::State, routing::get};
    use futures_util::{FutureExt, StreamExt, stream};
    use std::{
        future::pending,
        sync::{Mutex, PoisonError},
    };

    /// The ids of the requests within which guards were dropped.
    type Drops = Arc<Mutex<Vec<Option<String>>>>;

    /// A service whose handlers hold a guard.
    struct Guarding(Drops);

    /// A guard that panics when it is dropped.
    struct Guard(Drops);

    impl Drop for Guard {
        fn drop(&mut self) {
            let request = RequestContext::current().map(|request| format!("{:032x}", request.trace_id));
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            panic!("a bug of the service");
        }
    }

    impl Application for Guarding {
        const PACKAGE: Package = Package::new("guarding", "0");
        type Settings = ();
        type Secrets = NoSecrets;

        async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
            Ok(Self(Drops::default()))
        }

        fn routes() -> OpenApiRouter<Arc<Self>> {
            let waits = async |State(service): State<Arc<Self>>| {
                let _guard = Guard(service.0.clone());
                pending::<()>().await;
            };
            let streams = async |State(service): State<Arc<Self>>| {
                let guard = Guard(service.0.clone());
                let pieces = stream::iter([Ok::<_, Infallible>("a piece")]).chain(stream::pending());
                Body::from_stream(pieces.inspect(move |_| {
                    let _ = &guard;
                }))
            };
            OpenApiRouter::new().route("/waits", get(waits)).route("/streams", get(streams))
        }
    }

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    /// Sends a request. Returns its response, and the drops of its service.
    async fn send(path: &str) -> (Pin<Box<ResponseFuture<Guarding>>>, Drops) {
        let started = Harness::<Guarding>::start(MemoryManager::new(), Config::default()).await;
        let live = started.expect("it needs nothing").live();
        let request = Request::get(path).header("x-request-id", ID).body(Body::empty()).expect("a request");
        let drops = live.service().0.clone();
        (Box::pin(tower::Service::call(&mut Door::new(live), request)), drops)
    }

    fn taken(drops: &Drops) -> Vec<Option<String>> {
        std::mem::take(&mut drops.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_handler_holds_at_its_deadline_is_dropped_within_its_request_and_costs_no_answer() {
        let (response, drops) = send("/waits").await;
        let Ok(response) = response.await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(taken(&drops), [Some(ID.to_owned())]);
    }

    #[tokio::test]
    async fn what_is_held_for_a_client_that_leaves_is_dropped_within_its_request_and_ends_no_connection() {
        let (mut response, drops) = send("/waits").await;
        assert!((&mut response).now_or_never().is_none());
        drop(response);
        assert_eq!(taken(&drops), [Some(ID.to_owned())]);

        let (response, drops) = send("/streams").await;
        let Ok(response) = response.await;
        assert_eq!(response.status(), StatusCode::OK);
        drop(response);
        assert_eq!(taken(&drops), [Some(ID.to_owned())]);
    }
}
