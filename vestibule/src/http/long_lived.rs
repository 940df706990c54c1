//! Responses that may last: server-sent events, downloads without end, WebSockets.

use super::{problem::Problem, request_record::RequestRecord};
use crate::{
    application::{Application, Live},
    generation_usage::LongLivedGuard,
};
use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use std::{fmt, sync::Arc};

/// A response that may last longer than `server.response_timeout`: server-sent events, a download without end, a WebSocket.
///
/// It is an extractor. [`respond`](Self::respond) marks the response. `/status` and `audit` name the route for as long as
/// the response or a clone of this value lasts, if its generation was replaced: such a response may still use replaced
/// credentials. So it listens to [`next`](Self::next), and ends soon.
///
/// For as long, it also takes a place of `server.max_long_lived`, and none of `server.max_in_flight` once it has begun. If
/// all are taken, the client gets 503, and no handler runs.
///
/// For a WebSocket, move it into the task that has the socket: once the connection speaks another protocol, no limit of the
/// framework applies to it, except that new authorities of a [`ClientCertificate`](crate::ClientCertificate) end it. So the
/// task also reads, and ends if a read fails or has no bytes: otherwise it does not notice that the client has left, and
/// keeps the place. The example `events` shows it.
///
/// ```
/// use axum::{body::{Body, Bytes}, response::Response};
/// use futures_util::stream;
/// use std::{convert::Infallible, time::Duration};
/// use vestibule::LongLived;
///
/// async fn ticks(long_lived: LongLived) -> Response {
///     let ticks = stream::unfold(long_lived.clone(), async |mut long_lived| {
///         tokio::select! {
///             // The client connects again, and gets the generation in service.
///             _ = long_lived.next() => None,
///             () = tokio::time::sleep(Duration::from_secs(1)) => {
///                 Some((Ok::<_, Infallible>(Bytes::from_static(b"data: tick\n\n")), long_lived))
///             }
///         }
///     });
///     long_lived.respond(([("content-type", "text/event-stream")], Body::from_stream(ticks)))
/// }
/// ```
#[derive(Clone)]
pub struct LongLived {
    generations: Generations,
    /// `None` outside of a service, in a test of a handler.
    guard: Option<Arc<LongLivedGuard>>,
}

/// The news for a response that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongLivedEvent {
    /// Another generation is in service. The response still uses the credentials of its own.
    Replaced,
    /// The process is stopping. `server.drain` is the time that is left.
    Stopping,
}

impl LongLived {
    /// Waits until another generation comes into service, or the process stops. Once it stops, it returns at once each time.
    /// Cancel-safe.
    pub async fn next(&mut self) -> LongLivedEvent {
        let Some(generations) = &mut self.generations.0 else { return std::future::pending().await };
        if generations.changed().await { LongLivedEvent::Replaced } else { LongLivedEvent::Stopping }
    }

    /// Makes a response that may last.
    pub fn respond(self, response: impl IntoResponse) -> Response {
        // The extensions of a response are dropped when its head is sent.
        let guard = self.guard.clone();
        let keep = move |frame| {
            let _ = &guard;
            frame
        };
        let mut response = response.into_response().map(|body| Body::new(body.map_frame(keep)));
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Debug for LongLived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongLived")
    }
}

impl<S: Sync> FromRequestParts<S> for LongLived {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(record) = parts.extensions.get::<Arc<RequestRecord>>() else {
            return Ok(Self { generations: Generations(None), guard: None });
        };
        let Ok(place) = record.frame.long_lived_places.clone().try_acquire_owned() else {
            record.failed("too_many_long_lived");
            return Err(Problem::busy("too many long-lived responses are open; try again soon"));
        };
        let route = record.route.get().map_or("", MatchedPath::as_str);
        Ok(Self {
            generations: Generations(Some(record.generations.after(record.context.generation))),
            guard: Some(Arc::new(record.frame.usage.long_lived(route, place))),
        })
    }
}

/// A handle to the generation in service, whatever the service.
pub(super) trait WatchGenerations: Send + Sync {
    /// Waits for a generation that this handle has not seen. Returns `false` if there will be none.
    fn changed(&mut self) -> BoxFuture<'_, bool>;

    /// Returns a handle that has seen the generations up to this one.
    fn after(&self, generation: u64) -> Box<dyn WatchGenerations>;

    fn boxed_clone(&self) -> Box<dyn WatchGenerations>;
}

impl<A: Application> WatchGenerations for Live<A> {
    fn changed(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(Self::changed(self))
    }

    fn after(&self, generation: u64) -> Box<dyn WatchGenerations> {
        Box::new(Self::after(self, generation))
    }

    fn boxed_clone(&self) -> Box<dyn WatchGenerations> {
        Box::new(self.clone())
    }
}

struct Generations(Option<Box<dyn WatchGenerations>>);

impl Clone for Generations {
    fn clone(&self) -> Self {
        Self(self.0.as_ref().map(|generations| generations.boxed_clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        application::Build,
        config::Config,
        generation_usage::GenerationUsage,
        http::door::Door,
        openapi::OpenApiRouter,
        package::Package,
        resources::build_error::BuildError,
        testing::{Harness, MemoryManager, idle_service::NoSecrets},
    };
    use axum::{
        http::{Request, StatusCode, header},
        routing::get,
    };
    use futures_util::stream;
    use std::{convert::Infallible, num::NonZeroU32};
    use tokio::sync::Semaphore;
    use tower::ServiceExt;

    /// A service whose events never end.
    struct Events;

    impl Application for Events {
        const PACKAGE: Package = Package::new("events", "0");
        type Settings = ();
        type Secrets = NoSecrets;

        async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
            Ok(Self)
        }

        fn routes() -> OpenApiRouter<Arc<Self>> {
            let events = async |long_lived: LongLived| {
                long_lived.respond(Body::from_stream(stream::pending::<Result<String, Infallible>>()))
            };
            OpenApiRouter::new().route("/events", get(events)).route("/", get(async || ""))
        }
    }

    #[tokio::test]
    async fn a_long_lived_response_gives_its_place_back_and_has_a_limit_of_its_own() {
        let mut config = Config::default();
        config.server.max_in_flight = NonZeroU32::MIN;
        config.server.max_long_lived = NonZeroU32::MIN;
        let harness = Harness::<Events>::start(MemoryManager::new(), config).await.unwrap();
        let get = async |path| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            Door::new(harness.live()).oneshot(request).await.unwrap()
        };
        let first = get("/events").await;
        assert_eq!((first.status(), get("/").await.status()), (StatusCode::OK, StatusCode::OK));
        let second = get("/events").await;
        assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(second.headers().contains_key(header::RETRY_AFTER));
        drop((first, second));
        assert_eq!(get("/events").await.status(), StatusCode::OK);
    }

    #[test]
    fn a_response_is_named_while_its_body_lasts_whatever_the_body_holds() {
        let usage = Arc::new(GenerationUsage::default());
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let guard = Some(Arc::new(usage.long_lived("/events", place)));
        let response = LongLived { generations: Generations(None), guard }.respond("an event");
        // A connection drops the extensions when it has sent the head.
        let (_, body) = response.into_parts();
        assert_eq!(usage.long_lived_responses(), [("/events".to_owned(), 1)].into());
        drop(body);
        assert!(usage.long_lived_responses().is_empty());
    }
}
