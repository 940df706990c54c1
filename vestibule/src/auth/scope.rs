//! The layer that asks for a scope.

use super::{access_token::AccessToken, bearer};
use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use futures_util::future::{Either, Map, Ready, ready};
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// A layer for routes that need a scope: a token without it gets 403.
///
/// A route with this layer is never open: without a token it answers 401, also where authentication is off.
///
/// ```
/// use axum::routing::post;
/// use vestibule::{OpenApiRouter, RequireScope};
///
/// async fn publish() {}
///
/// let routes: OpenApiRouter =
///     OpenApiRouter::new().route("/v1/publish", post(publish).layer(RequireScope::new("orders:publish")));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequireScope(&'static str);

impl RequireScope {
    /// Returns the layer for this scope.
    pub fn new(scope: &'static str) -> Self {
        Self(scope)
    }
}

impl<S> Layer<S> for RequireScope {
    type Service = ScopedRoute<S>;

    fn layer(&self, route: S) -> ScopedRoute<S> {
        ScopedRoute { route, scope: self.0 }
    }
}

/// A route behind [`RequireScope`].
#[derive(Clone, Debug)]
pub struct ScopedRoute<S> {
    route: S,
    scope: &'static str,
}

type IntoAxum<F, R, E> = Map<F, fn(Result<R, E>) -> Result<Response, E>>;

impl<S: Service<Request, Response: IntoResponse>> Service<Request> for ScopedRoute<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Either<IntoAxum<S::Future, S::Response, S::Error>, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.route.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let checked = match request.extensions().get::<AccessToken>() {
            Some(token) => token.require_scope(self.scope),
            None => Err(bearer::no_token()),
        };
        match checked {
            Ok(()) => {
                let into: fn(_) -> _ = |result: Result<S::Response, _>| result.map(IntoResponse::into_response);
                Either::Left(futures_util::FutureExt::map(self.route.call(request), into))
            }
            Err(problem) => Either::Right(ready(Ok(problem.into_response()))),
        }
    }
}
