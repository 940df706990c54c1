//! The trait that a service implements, and the types that it meets there: its build context, its generations, its
//! background tasks.

mod background;
mod background_metrics;
mod build;
mod readiness_checks;
mod wake;
mod workers;

pub use self::{background::Background, build::Build, readiness_checks::ReadinessChecks, wake::WorkerWake};
pub(crate) use self::{
    background_metrics::BackgroundMetrics,
    readiness_checks::{ReadinessCheck, check_readiness, watch_readiness},
    wake::WorkerWakes,
};

use crate::{
    auth::Authenticator,
    caught::caught,
    config::{Config, ServiceSettings, SettingsCheck},
    debug_tokens::DebugTokens,
    generation_usage::GenerationUsage,
    http::{frame::Frame, tls::Tls},
    openapi::{OpenApiRouter, document::LazyDocument},
    package::Package,
    resources::{build_error::BuildError, registry::ResourceRegistry},
    secrets::{held::HeldCredentials, set::SecretSet},
    traces::{Exporter, Tracer},
};
use axum::Router;
use std::{fmt, ops::Deref, sync::Arc};
use tokio::sync::{Semaphore, watch};

/// A service: what it holds, how it is built from its credentials, and its routes.
///
/// One value of it belongs to one generation. A rotation builds another value beside it. Requests finish on the value
/// that they started on.
pub trait Application: Sized + Send + Sync + 'static {
    /// Name, version and migrations: [`package!()`](crate::package!).
    const PACKAGE: Package;

    /// The `[service]` section of the configuration.
    type Settings: ServiceSettings;

    /// The credentials: a struct with `#[derive(SecretSet)]`, one field per credential.
    type Secrets: SecretSet;

    /// Checks what involves more than one setting, or a setting and an optional credential. It runs at a start, and in
    /// a reload if a file of the configuration has changed, before anything is fetched. The command `check` runs it too. The default
    /// finds no mistake.
    ///
    /// ```
    /// use vestibule::{ConfigSection, config::{BaseUrl, SettingsCheck}};
    ///
    /// #[derive(Default, serde::Serialize, serde::Deserialize, ConfigSection)]
    /// struct Settings {
    ///     /// The URL that is told of new orders.
    ///     webhook_url: Option<BaseUrl>,
    /// }
    ///
    /// // `Application::check` of a service with the optional credential `webhook`.
    /// fn check(settings: &Settings, check: &mut SettingsCheck<'_>) {
    ///     if settings.webhook_url.is_some() && !check.has_credential("webhook") {
    ///         check.refuse("service.webhook_url", "the webhook's key too: its id, as `webhook` in [secrets.ids]");
    ///     }
    /// }
    /// ```
    fn check(settings: &Self::Settings, check: &mut SettingsCheck<'_>) {
        let _ = (settings, check);
    }

    /// Builds the service. Runs at the start, and in each reload that brings something new.
    fn build(cx: &Build<'_, Self>) -> impl Future<Output = Result<Self, BuildError>> + Send;

    /// Returns the routes, whose state is the service. Runs once per generation.
    ///
    /// If authentication is on (`auth.issuer`), a request needs a valid token for these, and for every path that has no
    /// route: [`AccessToken`](crate::AccessToken).
    ///
    /// A handler with `#[utoipa::path]` is added with `.routes(routes!(handler))`, and is in the OpenAPI document. One
    /// without it is added as in plain axum, with `.route("/path", get(handler))`, and is not. A whole router of axum is
    /// `OpenApiRouter::from(router)`.
    ///
    /// ```
    /// use axum::{Json, extract::State};
    /// use serde::Serialize;
    /// use std::sync::Arc;
    /// use utoipa::ToSchema;
    /// use vestibule::{OpenApiRouter, routes};
    ///
    /// struct Shop {
    ///     is_open: bool,
    /// }
    ///
    /// #[derive(Serialize, ToSchema)]
    /// struct Hours {
    ///     open: bool,
    /// }
    ///
    /// /// Says if the shop is open.
    /// #[utoipa::path(get, path = "/v1/hours", responses((status = OK, body = Hours)))]
    /// async fn hours(State(shop): State<Arc<Shop>>) -> Json<Hours> {
    ///     Json(Hours { open: shop.is_open })
    /// }
    ///
    /// // `Application::routes` of `Shop`.
    /// fn routes() -> OpenApiRouter<Arc<Shop>> {
    ///     OpenApiRouter::new().routes(routes!(hours))
    /// }
    /// # let document = routes().into_openapi();
    /// # assert!(document.paths.paths.contains_key("/v1/hours"));
    /// ```
    fn routes() -> OpenApiRouter<Arc<Self>>;

    /// Returns the routes that are open to everybody, also if authentication is on. The default has none. They read no
    /// token, so `Option<AccessToken>` is `None` there.
    fn public_routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }

    /// Puts layers around all routes: CORS, or limits from the settings. Runs once per generation. The default adds none.
    ///
    /// The framework's own answers come from outside the layers, so these do not change them: 503 if too many requests are in
    /// flight or the response does not begin in time, 408, 415 for a body with `Content-Encoding`, and 500 after a panic. A
    /// body that is too long is no such case: its 413 has the headers of the layers.
    ///
    /// ```
    /// use axum::{Router, extract::{Request, State}, middleware::{self, Next}, response::Response};
    /// use std::sync::Arc;
    ///
    /// struct Shop {
    ///     region: &'static str,
    /// }
    ///
    /// // `Application::layers` of `Shop`.
    /// fn layers(shop: &Arc<Shop>, routes: Router) -> Router {
    ///     routes.layer(middleware::from_fn_with_state(shop.clone(), add_region))
    /// }
    ///
    /// async fn add_region(State(shop): State<Arc<Shop>>, request: Request, next: Next) -> Response {
    ///     let mut response = next.run(request).await;
    ///     response.headers_mut().insert("x-region", shop.region.parse().expect("it is ASCII"));
    ///     response
    /// }
    /// # let _ = layers(&Arc::new(Shop { region: "eu" }), Router::new());
    /// ```
    fn layers(service: &Arc<Self>, routes: Router) -> Router {
        let _ = service;
        routes
    }

    /// Starts the work that goes on beside requests. Runs once, after the first generation is in service.
    fn background(tasks: &Background<Self>) {
        let _ = tasks;
    }

    /// Adds the readiness checks of the service. By default there are none: `/readyz` then depends on the age of the
    /// credentials alone.
    ///
    /// Runs once per generation, and the checks follow the generation in service. They run in the background, about every
    /// 5 s and after each rotation, so that a probe of `/readyz` gets the last results at once. A check that panics, or has
    /// not ended after 1 s, fails. A check that is required fails too until it has ended for the first time.
    /// `/readyz`, `/status` and `/metrics` name each check, and the log has each change.
    ///
    /// [`Harness::check_readiness`](crate::testing::Harness::check_readiness) runs them in a test.
    ///
    /// ```
    /// use std::{path::PathBuf, sync::Arc};
    /// # use vestibule::{Application, Build, BuildError, OpenApiRouter, Package, ReadinessChecks, SecretSet};
    /// # #[derive(SecretSet)]
    /// # struct NoSecrets {}
    ///
    /// struct Maps {
    ///     tiles: PathBuf,
    /// }
    ///
    /// impl Application for Maps {
    ///     // …
    /// #   const PACKAGE: Package = Package::new("maps", "1.0.0");
    /// #   type Settings = ();
    /// #   type Secrets = NoSecrets;
    /// #   async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> { unreachable!() }
    /// #   fn routes() -> OpenApiRouter<Arc<Self>> { OpenApiRouter::new() }
    ///     fn readiness(_: &Arc<Self>, checks: &mut ReadinessChecks<Self>) {
    ///         checks.required("tiles", |maps: Arc<Self>| async move {
    ///             // Fails if the volume with the tiles is not mounted.
    ///             tokio::fs::metadata(&maps.tiles).await.map(drop)
    ///         });
    ///     }
    /// }
    /// ```
    fn readiness(service: &Arc<Self>, checks: &mut ReadinessChecks<Self>) {
        let _ = (service, checks);
    }
}

/// The service as built from one set of credentials and one configuration: its [parts](GenerationParts). A request holds the
/// generation that it started on.
///
/// Whoever holds it last drops it: the reload actor, a listener, a request. A panic in the drop of the service ends none of
/// them. So nobody can take the parts out.
pub struct Generation<A: Application>(Option<GenerationParts<A>>);

/// The parts of a [`Generation`].
pub struct GenerationParts<A: Application> {
    /// The number of the generation, from 1.
    pub number: u64,
    /// The service.
    pub service: Arc<A>,
    /// The service's routes, in the frame. Only the door calls them.
    pub(crate) router: Router,
    pub(crate) frame: Arc<Frame>,
    pub(crate) debug_tokens: DebugTokens,
    /// The OpenAPI document of the routes.
    pub(crate) document: Arc<LazyDocument>,
    /// The places for requests in flight, over all generations.
    pub(crate) in_flight: Arc<Semaphore>,
    /// The TLS configuration of the listeners.
    pub(crate) tls: Arc<Tls>,
    /// `None` if authentication is off.
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    /// `None` if traces are off.
    pub(crate) exporter: Option<Arc<Exporter>>,
    pub(crate) config: Arc<Config<A::Settings>>,
    pub(crate) resources: ResourceRegistry,
    pub(crate) checks: ReadinessChecks<A>,
    pub(crate) usage: Arc<GenerationUsage>,
    /// The number of handles of the service that the generation has itself: this one, and those in its routes.
    pub(crate) own_handles: usize,
    /// The credentials. They are dropped last: nothing above holds one any more, so the log forgets them at once.
    pub(crate) credentials: HeldCredentials,
}

impl<A: Application> Generation<A> {
    pub(crate) fn new(parts: GenerationParts<A>) -> Self {
        Self(Some(parts))
    }

    /// Puts another configuration in, as if the generation had been built with it.
    #[cfg(test)]
    pub(crate) fn set_config(&mut self, config: Config<A::Settings>) {
        self.0.as_mut().expect("only its drop takes the parts").config = Arc::new(config);
    }

    /// Tells the parts of this generation that it comes into service, in place of `replaced`.
    pub(crate) fn publish(&self, replaced: Option<&Self>, tracer: &Tracer) {
        self.resources.publish();
        tracer.publish(self.exporter.as_ref());
        self.credentials.warn_of_unused(replaced.map(|replaced| &replaced.credentials));
    }

    /// Puts this generation in service, in place of `replaced`.
    pub(crate) fn replace(self: &Arc<Self>, replaced: &Self, live: &watch::Sender<Arc<Self>>, tracer: &Tracer) {
        self.publish(Some(replaced), tracer);
        // Closes the idle connections of the old pool before requests can open some of the new one.
        replaced.resources.retire(&self.resources);
        live.send_replace(self.clone());
    }
}

impl<A: Application> Deref for Generation<A> {
    type Target = GenerationParts<A>;

    fn deref(&self) -> &GenerationParts<A> {
        self.0.as_ref().expect("only its drop takes the parts")
    }
}

impl<A: Application> Drop for Generation<A> {
    fn drop(&mut self) {
        let _ = caught(|| self.0 = None);
    }
}

impl<A: Application> fmt::Debug for Generation<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<A: Application> fmt::Debug for GenerationParts<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationParts").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A handle to the generation in service.
pub struct Live<A: Application>(watch::Receiver<Arc<Generation<A>>>);

impl<A: Application> Live<A> {
    pub(crate) fn new(receiver: watch::Receiver<Arc<Generation<A>>>) -> Self {
        Self(receiver)
    }

    /// Returns the generation in service now. Costs one borrow of the watch channel and one clone of an `Arc`.
    pub fn generation(&self) -> Arc<Generation<A>> {
        self.0.borrow().clone()
    }

    /// Returns the service of the generation in service now.
    pub fn service(&self) -> Arc<A> {
        self.0.borrow().service.clone()
    }

    /// Returns a handle that has seen the generations up to this one.
    pub(crate) fn after(&self, generation: u64) -> Self {
        let mut receiver = self.0.clone();
        let in_service = receiver.borrow_and_update().number;
        if in_service != generation {
            receiver.mark_changed();
        }
        Self(receiver)
    }

    /// Waits for a generation that this handle has not seen yet. Returns `false` if the process is stopping and there
    /// will be none.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl<A: Application> Clone for Live<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Application> fmt::Debug for Live<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.0.borrow().number).finish()
    }
}

#[cfg(test)]
mod tests;
