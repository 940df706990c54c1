//! The trait that a service implements, and the types that it meets there: its build context, its generations, its
//! background tasks.

mod workers;

use crate::{
    config::{Config, ServiceSettings},
    credentials::{api_key::ApiKey, login::Login, signing_keys::SigningKeys},
    exit::{Exit, Fault},
    generation_usage::GenerationUsage,
    http::tls::Tls,
    loader::BUILD_GRACE,
    metrics::{Counter, Gauge, Histogram},
    package::Package,
    resources::{
        api_client::{ApiClient, endpoint::ApiEndpoint},
        breaker::ProbeReason,
        build_error::BuildError,
        circuit_breaker::CircuitBreaker,
        context::LoadContext,
        database::{Database, DatabaseSection},
        registry::{BuiltResource, ResourceKey, ResourceRegistry},
        resource::Resource,
        signer::Signer,
    },
    secrets::{
        credential::{Credential, Name},
        held::HeldCredentials,
        set::SecretSet,
    },
};
use axum::Router;
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout_at,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

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

    /// Builds the service. Runs at the start, and in each reload that brings something new.
    fn build(cx: &Build<'_, Self>) -> impl Future<Output = Result<Self, BuildError>> + Send;

    /// Returns the routes: plain axum, with the service as their state.
    fn routes() -> Router<Arc<Self>>;

    /// Starts the work that goes on beside requests. Runs once, after the first generation is in service.
    fn background(tasks: &Background<Self>) {
        let _ = tasks;
    }
}

/// The context that [`Application::build`] builds from.
///
/// A database is proven by a login before the generation is published. Nothing proves API keys and signing keys. A resource
/// is carried over to the next generation while its credential and its settings stay the same, and retired when they
/// change.
pub struct Build<'a, A: Application> {
    /// The `[service]` section.
    pub settings: &'a A::Settings,
    /// The credentials, all of them.
    pub secrets: &'a A::Secrets,
    pub(crate) context: &'a LoadContext<'a>,
    built: Mutex<ResourceRegistry>,
    /// The keys of the resources that were asked for.
    keys: Mutex<BTreeSet<ResourceKey>>,
    /// The credential whose resource could not be made.
    failed: Mutex<Option<Name>>,
}

impl<'a, A: Application> Build<'a, A> {
    pub(crate) fn new(settings: &'a A::Settings, secrets: &'a A::Secrets, context: &'a LoadContext<'a>) -> Self {
        Self { settings, secrets, context, built: Mutex::default(), keys: Mutex::default(), failed: Mutex::default() }
    }

    /// Returns the credential whose resource could not be made.
    pub(crate) fn failed(&self) -> Option<Name> {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_resources(self) -> ResourceRegistry {
        self.built.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the database of `[database]`. A login and a look at its schema prove it.
    ///
    /// # Errors
    /// [`BuildError::Rejected`] if the database rejects the login. A fault if it cannot be reached before the deadline,
    /// or if its schema is behind this binary (a reload only logs that).
    ///
    /// ```
    /// use vestibule::{Application, Build, BuildError, Credential, Database, credentials::Login};
    ///
    /// async fn open<A: Application>(cx: &Build<'_, A>, login: &Credential<Login>) -> Result<Database, BuildError> {
    ///     cx.database(login).await
    /// }
    /// ```
    pub async fn database(&self, login: &Credential<Login>) -> Result<Database, BuildError> {
        self.open_database(self.context.databases.default(), login).await
    }

    /// Opens the database of `[databases.NAME]`, as [`database`](Self::database) opens that of `[database]`. Several
    /// databases may share one login.
    ///
    /// # Errors
    /// As [`database`](Self::database). A fault with exit code 78 if the configuration has no such section.
    ///
    /// ```
    /// use vestibule::{Application, Build, BuildError, Credential, Database, credentials::Login};
    ///
    /// async fn reports<A: Application>(cx: &Build<'_, A>, login: &Credential<Login>) -> Result<Database, BuildError> {
    ///     cx.database_named("reports", login).await
    /// }
    /// ```
    pub async fn database_named(&self, name: &str, login: &Credential<Login>) -> Result<Database, BuildError> {
        let section = self.context.databases.named(name).map_err(BuildError::Fault)?;
        self.open_database(section, login).await
    }

    async fn open_database(
        &self,
        section: DatabaseSection<'_>,
        login: &Credential<Login>,
    ) -> Result<Database, BuildError> {
        let open = async |before: Option<&Database>| Database::open(login, section, before, self.context).await;
        self.resource(login, &(section.config, self.context.request_timeout), open).await
    }

    /// Returns a signer for one purpose. What it signs is void for any other purpose.
    ///
    /// What it seals lives for `lifetime`, to the second. The previous key verifies for as long as anything that it
    /// signed can live, so rotate no faster than that.
    ///
    /// # Panics
    /// If `purpose` contains a zero byte, because a zero byte ends the purpose in what is signed.
    ///
    /// ```
    /// use std::time::Duration;
    /// use vestibule::{Application, Build, Credential, Signer, credentials::SigningKeys};
    ///
    /// fn sessions<A: Application>(cx: &Build<'_, A>, keys: &Credential<SigningKeys>) -> Signer {
    ///     cx.signer(keys, "session", Duration::from_secs(3600))
    /// }
    /// ```
    pub fn signer(&self, keys: &Credential<SigningKeys>, purpose: &'static str, lifetime: Duration) -> Signer {
        let max_stale = self.context.secrets.max_stale;
        let (requests, uses) = (self.context.reload_requests.clone(), self.context.last_uses.clone());
        Signer::new(keys.name(), keys.shared(), purpose, lifetime, max_stale, requests, uses)
    }

    /// Makes a client of another service, with this key.
    ///
    /// # Errors
    /// A fault if `endpoint` asks for TLS and the platform trusts no certificate authority.
    ///
    /// ```
    /// use vestibule::{ApiClient, ApiEndpoint, Application, Build, BuildError, Credential, config::BaseUrl, credentials::ApiKey};
    ///
    /// async fn payments<A: Application>(
    ///     cx: &Build<'_, A>,
    ///     key: &Credential<ApiKey>,
    ///     url: BaseUrl,
    /// ) -> Result<ApiClient, BuildError> {
    ///     cx.client(key, &ApiEndpoint::at(url)).await
    /// }
    /// ```
    pub async fn client(&self, key: &Credential<ApiKey>, endpoint: &ApiEndpoint) -> Result<ApiClient, BuildError> {
        let open = async |before: Option<&ApiClient>| ApiClient::open(key, endpoint, before, self.context);
        self.resource(key, endpoint, open).await
    }

    /// Returns a counter on `/metrics`, named `<service>_<name>_total`.
    ///
    /// It is the same counter in all generations and counts from the start of the process. Ask for each series in
    /// `build`, so that it is there with 0.
    ///
    /// # Errors
    /// A bug if the name or a label cannot be one, or if a metric of that name has another type, another help text or
    /// other labels.
    ///
    /// ```
    /// use vestibule::{Application, Build, BuildError, metrics::Counter};
    ///
    /// fn deliveries<A: Application>(cx: &Build<'_, A>) -> Result<Counter, BuildError> {
    ///     cx.counter("deliveries", "Deliveries that succeeded", &[("outcome", "delivered")])
    /// }
    /// ```
    pub fn counter(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Result<Counter, BuildError> {
        self.context.metrics.counter_or_gauge(name, help, labels).map_err(BuildError::bug)
    }

    /// Returns a gauge on `/metrics`, named `<service>_<name>`.
    ///
    /// It is the same gauge in all generations. An older generation that still serves requests can set it too.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    ///
    /// ```
    /// use vestibule::{Application, Build, BuildError, metrics::Gauge};
    ///
    /// fn waiting<A: Application>(cx: &Build<'_, A>) -> Result<Gauge, BuildError> {
    ///     cx.gauge("deliveries_waiting", "Deliveries that are due", &[])
    /// }
    /// ```
    pub fn gauge(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Result<Gauge, BuildError> {
        self.context.metrics.counter_or_gauge(name, help, labels).map_err(BuildError::bug)
    }

    /// Returns a histogram on `/metrics`, named `<service>_<name>`. `bounds` are the upper bounds of its buckets; one more
    /// bucket has no bound.
    ///
    /// It is the same histogram in all generations and counts from the start of the process.
    ///
    /// # Errors
    /// As [`counter`](Self::counter), and if the bounds do not ascend or differ from those of another series of that name.
    ///
    /// ```
    /// use vestibule::{Application, Build, BuildError, metrics::{Histogram, exponential_buckets}};
    ///
    /// fn durations<A: Application>(cx: &Build<'_, A>) -> Result<Histogram, BuildError> {
    ///     let bounds = exponential_buckets(0.01, 4.0, 6);
    ///     cx.histogram("delivery_duration_seconds", "The duration of deliveries", &[("outcome", "delivered")], bounds)
    /// }
    /// ```
    pub fn histogram(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
        bounds: impl IntoIterator<Item = f64>,
    ) -> Result<Histogram, BuildError> {
        let bounds = bounds.into_iter().collect();
        self.context.metrics.histogram(name, help, labels, bounds).map_err(BuildError::bug)
    }

    /// Returns a resource of any other kind.
    ///
    /// While neither the credential nor `settings` changed, this is the resource in service. Otherwise it is the one
    /// that `make` makes; `make` gets the resource in service as its predecessor. ARCHITECTURE.md shows a whole kind.
    ///
    /// One credential may make several resources. The position of a call, among those with the same credential and type,
    /// says which resource in service is the predecessor. So make them in the same order each time.
    ///
    /// # Errors
    /// What `make` fails with.
    pub async fn resource<K, R: Resource>(
        &self,
        credential: &Credential<K>,
        settings: &impl Serialize,
        make: impl AsyncFnOnce(Option<&R>) -> Result<R, BuildError>,
    ) -> Result<R, BuildError> {
        let origin = origin(credential, settings)?;
        let key = self.next_key::<R>(credential.name);
        let in_service = self.context.in_service.and_then(|registry| registry.get::<R>(key));
        let (resource, built) = match in_service {
            // Carried over as it is. If it is rejected, it stays rejected: only new versions are judged.
            Some((built, resource)) if built.origin == origin => (resource.clone(), built.clone()),
            // None is in service, or one of another origin: another version or other settings.
            predecessor => {
                let predecessor = predecessor.map(|(_, resource)| resource);
                self.make_once(key, origin, predecessor, make).await?
            }
        };
        let mut registry = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        registry.built.insert(key, built);
        Ok(resource)
    }

    /// Returns a circuit breaker for a resource that uses this version of a credential at `place`: an address, for
    /// example. Make it inside of `make`, and return it in [`Resource::circuit_breaker`].
    ///
    /// Breakers of one version at one place share their rejections, also with resources of earlier loads.
    pub fn circuit_breaker<K>(&self, credential: &Credential<K>, place: &str) -> CircuitBreaker {
        CircuitBreaker::new(credential, place, self.context)
    }

    /// Returns the reason for which this build may try a version of a credential, for [`CircuitBreaker::allow`].
    pub fn probe_reason(&self) -> ProbeReason {
        self.context.probe_reason
    }
}

impl<A: Application> Build<'_, A> {
    /// Returns the key of the resource that the next call makes.
    fn next_key<R: Resource>(&self, credential: Name) -> ResourceKey {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = ResourceKey::first::<R>(credential);
        while !keys.insert(key) {
            key.position += 1;
        }
        key
    }

    /// Returns the resource of this origin. Makes it, unless an earlier attempt of the load has made it.
    async fn make_once<R: Resource>(
        &self,
        key: ResourceKey,
        origin: String,
        predecessor: Option<&R>,
        make: impl AsyncFnOnce(Option<&R>) -> Result<R, BuildError>,
    ) -> Result<(R, BuiltResource), BuildError> {
        if let Some(made) = self.made_before::<R>(key, &origin) {
            return Ok(made);
        }
        // What `make` does through this context ends by the deadline, and its errors say more than a timeout does.
        let deadline = self.context.deadline_of(key.credential) + BUILD_GRACE / 2;
        let made = timeout_at(deadline, make(predecessor)).await;
        let made = made.unwrap_or_else(|_| Err(BuildError::Fault(late(key.credential))));
        let resource = made.inspect_err(|_| self.record_failure(key.credential))?;
        let built = BuiltResource { origin, resource: Arc::new(resource.clone()) };
        let mut made = self.context.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.built.insert(key, built.clone());
        Ok((resource, built))
    }

    fn made_before<R: Resource>(&self, key: ResourceKey, origin: &str) -> Option<(R, BuiltResource)> {
        let made = self.context.made.lock().unwrap_or_else(PoisonError::into_inner);
        match made.get::<R>(key) {
            Some((built, resource)) if built.origin == origin => Some((resource.clone(), built.clone())),
            _ => None,
        }
    }

    fn record_failure(&self, name: Name) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(name);
    }
}

/// Returns the fault of a credential whose resource was not made in time.
fn late(name: Name) -> Fault {
    Fault::new(
        Exit::Deadline,
        format!("credential `{name}`"),
        "what is made of it did not answer in time",
        "check the other side, and the network in between; raise secrets.deadline if it is only slow",
    )
}

/// Returns what a resource is made of, as text to compare.
fn origin<K>(credential: &Credential<K>, settings: &impl Serialize) -> Result<String, BuildError> {
    let settings =
        serde_json::to_string(settings).map_err(|_| BuildError::bug("settings of a resource cannot be serialized"))?;
    Ok(format!("{} {:?} {settings}", credential.subject(), credential.versions))
}

/// The service as built from one set of credentials and one configuration. A request holds the generation that it
/// started on.
pub struct Generation<A: Application> {
    /// The number of the generation, from 1.
    pub number: u64,
    /// The service.
    pub service: Arc<A>,
    /// The service's routes, under the layers that every request passes.
    pub router: Router,
    /// The places for requests in flight, over all generations.
    pub(crate) in_flight: Arc<Semaphore>,
    /// The TLS configuration of the listeners.
    pub(crate) tls: Arc<Tls>,
    pub(crate) config: Arc<Config<A::Settings>>,
    pub(crate) credentials: HeldCredentials,
    pub(crate) resources: ResourceRegistry,
    pub(crate) usage: Arc<GenerationUsage>,
    /// The number of handles of the service that the generation has itself: this one, and those in its routes.
    pub(crate) own_handles: usize,
}

impl<A: Application> Generation<A> {
    /// Puts this generation in service, in place of `replaced`.
    pub(crate) fn replace(self: &Arc<Self>, replaced: &Self, live: &watch::Sender<Arc<Self>>) {
        self.resources.publish();
        // Closes the idle connections of the old pool before requests can open some of the new one.
        replaced.resources.retire(&self.resources);
        live.send_replace(self.clone());
    }
}

impl<A: Application> fmt::Debug for Generation<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("number", &self.number).finish_non_exhaustive()
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

/// Tasks that work beside requests, for as long as the process lives.
pub struct Background<A: Application> {
    live: Live<A>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl<A: Application> Background<A> {
    pub(crate) fn new(live: Live<A>, stopping: CancellationToken) -> Self {
        Self { live, stopping, tasks: TaskTracker::new() }
    }

    /// Spawns a task. It must end when [`stopping`](Self::stopping) is cancelled; `server.drain` is its grace period.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Returns a handle to the generation in service. Ask it again for each piece of work: a task that keeps an old
    /// generation keeps its credentials.
    pub fn live(&self) -> Live<A> {
        self.live.clone()
    }

    /// Returns a token that is cancelled when the process is asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<A: Application> fmt::Debug for Background<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}
