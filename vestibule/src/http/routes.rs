//! The routes of the public listener: those of the service, and the OpenAPI document that describes them.

use crate::{
    application::Application,
    auth::{Authenticator, authenticate},
    config::settings::ServerConfig,
    exit::{Exit, Fault},
    openapi::document::{self, LazyDocument},
};
use axum::{Router, middleware};
use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

/// Returns the routes of a generation in the layers of the service, and their document.
///
/// # Errors
/// A fault if the routes do not fit together.
pub(crate) fn router<A: Application>(
    service: &Arc<A>,
    config: &ServerConfig,
    authenticator: Option<&Arc<Authenticator>>,
) -> Result<(Router, Arc<LazyDocument>), Fault> {
    let (routes, document) = collect::<A>(config.openapi, authenticator.map_or(Guard::Off, Guard::On))?;
    Ok((A::layers(service, routes.with_state(service.clone())), document))
}

/// The guard of the routes that are not public.
#[derive(Clone, Copy)]
pub(crate) enum Guard<'a> {
    Off,
    On(&'a Arc<Authenticator>),
    /// Only the document says that it is on: nobody serves the routes.
    Described,
}

/// Collects all routes of a service, and the document that describes them. `serves_document` adds `GET /openapi.json`.
///
/// With a guard, everything but the public routes needs a token, also a path without a route: a client without a
/// token does not learn which paths there are.
///
/// # Errors
/// A fault if the routes do not fit together: then axum panics.
pub(crate) fn collect<A: Application>(
    serves_document: bool,
    guard: Guard<'_>,
) -> Result<(Router<Arc<A>>, Arc<LazyDocument>), Fault> {
    let collecting = || {
        let (mut routes, mut described) = A::routes().split_for_parts();
        let (public_routes, public_described) = A::public_routes().split_for_parts();
        if !matches!(guard, Guard::Off) {
            document::require_token(&mut described);
        }
        described.merge(public_described);
        let document = LazyDocument::new(Box::new(move || document::complete(described, &A::PACKAGE)));
        let document = Arc::new(document);
        if let Guard::On(authenticator) = guard {
            routes = routes.layer(middleware::from_fn_with_state(authenticator.clone(), authenticate));
        }
        // Of two default fallbacks, the one of the second router stays.
        let mut routes = public_routes.merge(routes);
        if serves_document {
            routes = routes.route("/openapi.json", document::route(document.clone()));
        }
        (routes, document)
    };
    panic::catch_unwind(AssertUnwindSafe(collecting)).map_err(|payload| {
        Fault::new(
            Exit::Bug,
            "the routes of the service",
            message(&*payload),
            "give each method of a path to one handler, in `routes` or in `public_routes`; `GET /openapi.json` is taken, \
             unless `server.openapi` is `false`",
        )
    })
}

/// Returns the message of a panic. It quotes no secret: the routes are made without the service.
fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<String>() {
        return text.clone();
    }
    payload.downcast_ref::<&str>().map_or_else(|| "they cannot be made".to_owned(), |text| (*text).to_owned())
}
