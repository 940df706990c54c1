//! The limits of a single route.

use super::request_record::RequestRecord;
use axum::extract::Request;
use bytesize::ByteSize;
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tower::{Layer, Service};

/// The limits of a route, in place of `server.body_limit` and `server.request_timeout`: a layer for an upload, or for a
/// long poll.
///
/// The client gets the same answers: 413 for a body that is too long, 408 for one that does not arrive in time, and 503
/// if the response does not begin in time. A statement of the database keeps its own limit, `database.statement_timeout`.
/// A generation that was replaced lives on until its last request has ended, so a long timeout keeps old credentials
/// longer.
///
/// ```
/// use axum::{Router, body::Bytes, routing::post};
/// use std::time::Duration;
/// use vestibule::{Limits, config::ByteSize};
///
/// async fn upload(picture: Bytes) -> String {
///     format!("{} bytes", picture.len())
/// }
///
/// let limits = Limits::new().body(ByteSize::mib(50)).timeout(Duration::from_secs(300));
/// let routes: Router = Router::new().route("/pictures", post(upload).layer(limits));
/// # let _ = routes;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub(super) body: Option<ByteSize>,
    pub(super) timeout: Option<Duration>,
}

impl Limits {
    /// Returns limits that change nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the largest length of the request's body.
    ///
    /// # Panics
    /// If it is more than 1 GiB.
    #[must_use]
    pub fn body(mut self, limit: ByteSize) -> Self {
        assert!(limit <= ByteSize::gib(1), "the limit of a body is 1 GiB at most");
        self.body = Some(limit);
        self
    }

    /// Sets the longest time until the response begins.
    ///
    /// # Panics
    /// If it is less than 10 ms or more than an hour.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        let bounds = Duration::from_millis(10)..=Duration::from_secs(3600);
        assert!(bounds.contains(&limit), "the timeout of a request is 10 ms to 1 h");
        self.timeout = Some(limit);
        self
    }
}

impl<S> Layer<S> for Limits {
    type Service = LimitedRoute<S>;

    fn layer(&self, route: S) -> LimitedRoute<S> {
        LimitedRoute { route, limits: *self }
    }
}

/// A route with limits of its own.
#[derive(Clone, Debug)]
pub struct LimitedRoute<S> {
    route: S,
    limits: Limits,
}

impl<S: Service<Request>> Service<Request> for LimitedRoute<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.route.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> S::Future {
        // Absent only if a test calls the routes without a door.
        if let Some(record) = request.extensions().get::<Arc<RequestRecord>>() {
            record.limit(&self.limits);
        }
        self.route.call(request)
    }
}
