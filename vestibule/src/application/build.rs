//! The build context: what a service builds itself from, with the framework's help.

use super::{Application, WorkerWake};
use crate::{
    credentials::{api_key::ApiKey, login::Login, signing_keys::SigningKeys},
    exit::{Exit, Fault},
    loader::build::BUILD_GRACE,
    metrics::{Counter, Gauge, Histogram},
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
    secrets::credential::{Credential, Name},
};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout_at;

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
    context: &'a LoadContext<'a>,
    built: Mutex<ResourceRegistry>,
    /// The keys of the resources that were asked for.
    keys: Mutex<BTreeSet<ResourceKey>>,
    /// The credential whose resource could not be made.
    failed: Mutex<Option<Name>>,
    /// `true` once a database failed. It was tried until the deadline, or somebody must change something at it.
    database_failed: AtomicBool,
}

impl<'a, A: Application> Build<'a, A> {
    pub(crate) fn new(settings: &'a A::Settings, secrets: &'a A::Secrets, context: &'a LoadContext<'a>) -> Self {
        Self {
            settings,
            secrets,
            context,
            built: Mutex::default(),
            keys: Mutex::default(),
            failed: Mutex::default(),
            database_failed: AtomicBool::new(false),
        }
    }

    /// Returns the credential whose resource could not be made.
    pub(crate) fn failed(&self) -> Option<Name> {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if a database could not be opened.
    pub(crate) fn has_database_failed(&self) -> bool {
        self.database_failed.load(Ordering::Relaxed)
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
        let opened = self.resource(login, &(section.config, self.context.request_timeout), open).await;
        if opened.is_err() {
            self.database_failed.store(true, Ordering::Relaxed);
        }
        opened
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
        let open = async |before: Option<&ApiClient>| ApiClient::open(Some(key), endpoint, before, self.context).await;
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

    /// Returns a handle that wakes the workers of this name ([`Background::work`](crate::Background::work)). With it, a
    /// request that leaves them work has it begun at once.
    ///
    /// ```
    /// use vestibule::{Application, Build, WorkerWake};
    ///
    /// fn mail<A: Application>(cx: &Build<'_, A>) -> WorkerWake {
    ///     cx.worker_wake("mail")
    /// }
    /// ```
    pub fn worker_wake(&self, name: &'static str) -> WorkerWake {
        self.context.worker_wakes.of(name)
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
    /// Makes a client of another service that needs no key. It shares with `before` what is the same.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    #[cfg(feature = "otlp")]
    pub(crate) async fn keyless_client(
        &self,
        endpoint: &ApiEndpoint,
        before: Option<&ApiClient>,
    ) -> Result<ApiClient, BuildError> {
        ApiClient::open(None, endpoint, before, self.context).await
    }

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
