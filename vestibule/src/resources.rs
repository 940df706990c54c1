//! What a service is built from, and how it outlives the generation that built it, or does not.

pub mod api_client;
pub mod database;
pub mod signer;

mod standing;

pub use api_client::{Api, ApiClient, Bearer, CallError, NotTaken};
pub use database::Database;
pub use signer::{Signature, Signer};
pub use standing::Occasion;
pub(crate) use standing::Standings;

use crate::{
    app::App,
    bell::Bell,
    config,
    counters::{Counter, Counters},
    credentials::{ApiKey, Login, SigningKeys},
    exit::{Exit, Fault},
    secrets::{Credential, Name, VersionId},
    service::Service,
};
use futures_util::future::{BoxFuture, join_all};
use serde::Serialize;
use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Something built from a credential, held by the service and known to the framework. Cheap to clone: a handle.
pub trait Resource: Any + Clone + Send + Sync {
    /// The generation that made this is in service from now on.
    fn publish(&self) {}

    /// What the other side said, while it refuses the credential. Each trip then looks for another version.
    fn refusal(&self) -> Option<Refusal> {
        None
    }

    /// While the credential is refused: tries it again, if that is not too often.
    fn probe(&self, occasion: Occasion, deadline: Instant) -> impl Future<Output = ()> + Send {
        let _ = (occasion, deadline);
        async {}
    }

    /// Another generation is in service, with a successor unless it has none: let go of what nobody uses. Requests may
    /// still hold this.
    fn retire(&self, successor: Option<&Self>) {
        let _ = successor;
    }

    /// Its connections, if it is a pool: for `/metrics`.
    fn connections(&self) -> Option<Connections> {
        None
    }

    /// The process ends: let go of everything.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The open connections of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Those that wait for use.
    pub idle: usize,
    /// Those in use, or being opened.
    pub used: usize,
}

/// [`Resource`], whatever its type.
trait Erased: Send + Sync {
    fn any(&self) -> &dyn Any;
    fn publish(&self);
    fn refusal(&self) -> Option<Refusal>;
    fn probe(&self, occasion: Occasion, deadline: Instant) -> BoxFuture<'_, ()>;
    fn retire(&self, successor: Option<&dyn Any>);
    fn connections(&self) -> Option<Connections>;
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<R: Resource> Erased for R {
    fn any(&self) -> &dyn Any {
        self
    }

    fn publish(&self) {
        Resource::publish(self);
    }

    fn refusal(&self) -> Option<Refusal> {
        Resource::refusal(self)
    }

    fn probe(&self, occasion: Occasion, deadline: Instant) -> BoxFuture<'_, ()> {
        Box::pin(Resource::probe(self, occasion, deadline))
    }

    fn retire(&self, successor: Option<&dyn Any>) {
        Resource::retire(self, successor.and_then(|any| any.downcast_ref()));
    }

    fn connections(&self) -> Option<Connections> {
        Resource::connections(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(Resource::close(self))
    }
}

/// The resources of one generation.
#[derive(Default)]
pub(crate) struct Resources {
    made: BTreeMap<Name, Made>,
}

#[derive(Clone)]
struct Made {
    /// What it was built from: versions and settings. Equal origins make equal resources.
    origin: String,
    /// The same one in each generation that it was carried over to.
    resource: Arc<dyn Erased>,
}

impl Resources {
    pub(crate) fn publish(&self) {
        for made in self.made.values() {
            made.resource.publish();
        }
    }

    /// Tries what is refused again, if that is not too often.
    pub(crate) async fn probe(&self, occasion: Occasion, deadline: Instant) {
        join_all(self.made.values().map(|made| made.resource.probe(occasion, deadline))).await;
    }

    /// What the other sides refuse at this moment.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        self.made.values().filter_map(|made| made.resource.refusal()).collect()
    }

    /// Retires what `successor` did not carry over.
    pub(crate) fn retire(&self, successor: &Self) {
        for (name, made) in &self.made {
            let next = successor.made.get(name);
            if next.is_none_or(|next| next.origin != made.origin) {
                made.resource.retire(next.map(|next| next.resource.any()));
            }
        }
    }

    /// The pools, each with an address that tells it from all others while this is held.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (*const (), Connections)> {
        let pool = |made: &Made| Some((Arc::as_ptr(&made.resource).cast(), made.resource.connections()?));
        self.made.values().filter_map(pool)
    }

    pub(crate) async fn close(&self) {
        for made in self.made.values() {
            made.resource.close().await;
        }
    }

    fn get<R: Resource>(&self, name: Name) -> Option<(&Made, &R)> {
        let made = self.made.get(name)?;
        Some((made, made.resource.any().downcast_ref()?))
    }
}

/// What [`Service::build`] builds from. Everything built through it is proven before it counts, carried over while its
/// credential and settings stay the same, and retired when they do not.
pub struct Build<'a, S: Service> {
    /// The `[service]` section.
    pub settings: &'a S::Settings,
    /// The credentials, all of them.
    pub secrets: &'a S::Secrets,
    pub(crate) database: &'a config::Database,
    /// The longest that a replica may go on with a version that was replaced.
    pub(crate) max_stale: Duration,
    pub(crate) app: &'a App,
    pub(crate) counters: &'a Counters,
    /// The generation in service, in a reload.
    pub(crate) before: Option<&'a Resources>,
    pub(crate) attempt: &'a Attempt,
    pub(crate) made: Mutex<Resources>,
}

/// What a build must know of the trip that it is a part of.
pub(crate) struct Attempt {
    pub(crate) deadline: Instant,
    pub(crate) occasion: Occasion,
    pub(crate) bell: Arc<Bell>,
    pub(crate) standings: Arc<Standings>,
}

impl<S: Service> Build<'_, S> {
    /// The database of `[database]`, proven by a login and a look at its schema.
    ///
    /// # Errors
    /// [`BuildError::Refused`] if the database refuses the login; a fault if it cannot be reached before the deadline,
    /// or its schema is behind this binary (in a reload that is only logged).
    pub async fn database(&self, login: &Credential<Login>) -> Result<Database, BuildError> {
        let proof = database::Proof {
            migrations: self.app.migrations,
            service: self.app.name,
            starting: self.before.is_none(),
            attempt: self.attempt,
        };
        self.keep(login, self.database, async |before| Database::open(login, self.database, before, &proof).await).await
    }

    /// A signer for one purpose: what it signs is void for any other. What it seals lives for `lifetime`, to the second;
    /// the previous key verifies as long as anything can live that it has signed, so rotate no faster than that.
    ///
    /// # Panics
    /// If `purpose` has a zero byte: that ends the name in what is signed.
    pub fn signer(&self, keys: &Credential<SigningKeys>, purpose: &'static str, lifetime: Duration) -> Signer {
        Signer::new(keys.shared(), purpose, lifetime, self.max_stale, self.attempt.bell.clone())
    }

    /// A client of another service, with this key.
    ///
    /// # Errors
    /// A fault if `api` asks for TLS and the platform trusts no certificate authority.
    pub async fn client(&self, key: &Credential<ApiKey>, api: &Api) -> Result<ApiClient, BuildError> {
        let bell = &self.attempt.bell;
        self.keep(key, api, async |before| ApiClient::open(key, api, before, bell, self.app)).await
    }

    /// A counter on `/metrics`, where it is called `<service>_<name>_total`: the same one for all generations, from the
    /// start of the process. Ask for each series that there will be, so that it is there with 0.
    ///
    /// # Errors
    /// A bug, if the name or a label cannot be one, or there are counters of that name with another help or other labels.
    pub fn counter(
        &self,
        name: &str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
    ) -> Result<Counter, BuildError> {
        self.counters.counter(self.app.name, name, help, labels).map_err(BuildError::bug)
    }

    /// Any other resource: the one in service while neither the credential nor `settings` changed, else what `make`
    /// makes; it gets the one in service as a predecessor. One credential makes one resource.
    ///
    /// # Errors
    /// What `make` fails with.
    pub async fn keep<K, R: Resource>(
        &self,
        credential: &Credential<K>,
        settings: &impl Serialize,
        make: impl AsyncFnOnce(Option<&R>) -> Result<R, BuildError>,
    ) -> Result<R, BuildError> {
        let origin = origin(credential, settings)?;
        let before = self.before.and_then(|before| before.get::<R>(credential.name));
        let (resource, made) = match before {
            Some((held, resource)) if held.origin == origin => match resource.refusal() {
                // It is not taken up again as if it were proven.
                Some(refusal) => return Err(refusal.into()),
                None => (resource.clone(), held.clone()),
            },
            before => {
                let resource = make(before.map(|(_, resource)| resource)).await?;
                (resource.clone(), Made { origin, resource: Arc::new(resource) })
            }
        };
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match all.made.insert(credential.name, made) {
            None => Ok(resource),
            Some(_) => Err(BuildError::bug("it makes two resources from one credential: clone the first")),
        }
    }
}

/// What a resource is made of, as text to compare.
fn origin<K>(credential: &Credential<K>, settings: &impl Serialize) -> Result<String, BuildError> {
    let settings =
        serde_json::to_string(settings).map_err(|_| BuildError::bug("settings of a resource cannot be serialized"))?;
    Ok(format!("{} {:?} {settings}", credential.subject(), credential.versions))
}

/// The other side refuses one version of a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}, version {version}, is refused: {reason}")]
pub struct Refusal {
    /// The credential's name.
    pub credential: Name,
    /// What a report calls it: name and id.
    pub subject: String,
    /// The version that was refused.
    pub version: VersionId,
    /// What the other side said.
    pub reason: String,
}

impl Refusal {
    /// The refusal of this version. `reason` is told to people: it must not quote the credential.
    pub fn of<K>(credential: &Credential<K>, reason: impl Into<String>) -> Self {
        Self {
            credential: credential.name(),
            subject: credential.subject(),
            version: credential.version().clone(),
            reason: reason.into(),
        }
    }
}

/// Why a service could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The other side refuses the credential. The version of a rotation that has not ended may be tried in its place.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Anything else, with what to do about it.
    #[error("{}: {}", .0.subject, .0.problem)]
    Fault(Fault),
}

impl BuildError {
    /// A setting of the `[service]` section that cannot be used. Ends a start with exit code 78.
    pub fn setting(key: &str, expected: &str) -> Self {
        Self::Fault(Fault::new(
            Exit::Config,
            format!("setting {key}"),
            format!("expected {expected}"),
            "correct the value",
        ))
    }

    fn bug(problem: &str) -> Self {
        Self::Fault(Fault::new(Exit::Bug, "Service::build", problem, "this is a bug: please report it"))
    }

    pub(crate) fn into_fault(self) -> Fault {
        match self {
            Self::Fault(fault) => fault,
            Self::Refused(Refusal { subject, version, reason, .. }) => Fault::new(
                Exit::Denied,
                subject,
                format!("the login is refused, in version {version}: {reason}"),
                "put the version that the other side accepts at the manager, or make it accept the one at the manager: \
                 for a database, set that password",
            ),
        }
    }
}
