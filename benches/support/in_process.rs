//! The route without HTTP, and its statement without the route: of the framework, and of axum and sqlx alone.

use super::axum_sqlx;
use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    response::Response,
};
use futures_util::future::BoxFuture;
use serde_json::Value;
use service::{Notes, Secrets};
use sqlx::PgExecutor;
use std::{
    convert::Infallible,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;
use tower::Service;
use uuid::Uuid;
use vestibule::testing::Harness;
use vestibule::{
    Application, Build, BuildError, Database, Live, OpenApiRouter, Package,
    config::{Config, TlsMode},
    http::Door,
    secrets::{Fetched, SecretId, SecretValue, Source, SourceError, Stage, VersionId, Versions},
};

/// A thing to call. The function returns a future that makes calls, one after the other, as long as any are left.
pub(crate) struct Callee(Box<dyn Fn(Arc<AtomicUsize>) -> BoxFuture<'static, ()>>);

impl Callee {
    /// Makes calls. This number of callers share them.
    pub(crate) async fn call(&self, callers: usize, calls: usize) {
        let left = Arc::new(AtomicUsize::new(calls));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            tasks.spawn((self.0)(left.clone()));
        }
        tasks.join_all().await;
    }

    /// Calls the route of the example through its door.
    pub(crate) async fn door(login: &Value, path: &str) -> Self {
        Self::route(Door::new(start::<Notes>(login).await), path)
    }

    /// Calls a route.
    pub(crate) fn route<S, B>(service: S, path: &str) -> Self
    where
        S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let path = path.to_owned();
        Self(Box::new(move |left| {
            let (mut service, path) = (service.clone(), path.clone());
            Box::pin(async move {
                while take(&left) {
                    let request = Request::get(&path).body(Body::empty()).expect("a path");
                    let Ok(response) = service.call(request).await;
                    assert_eq!(response.status(), 200);
                    axum::body::to_bytes(Body::new(response.into_body()), 1024).await.expect("a body");
                }
            })
        }))
    }

    /// Runs the statement on the framework's database.
    pub(crate) async fn database(login: &Value, id: Uuid) -> Self {
        Self::statement(start::<DatabaseOnly>(login).await.service().0.clone(), id)
    }

    /// Runs the statement.
    pub(crate) fn statement<D>(database: D, id: Uuid) -> Self
    where
        D: Clone + Send + Sync + 'static,
        for<'a> &'a D: PgExecutor<'a>,
    {
        Self(Box::new(move |left| {
            let database = database.clone();
            Box::pin(async move {
                while take(&left) {
                    axum_sqlx::find(id, &database).await.expect("an answer").expect("a row");
                }
            })
        }))
    }
}

/// Takes one of the calls that are left. Returns false if there is none.
fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Returns the CPU time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts it");
    let nanoseconds = statistics.split(' ').next().expect("a text has a first word");
    Duration::from_nanos(nanoseconds.parse().expect("the first word is the time on a CPU"))
}

/// Starts a service without a process around it.
async fn start<A: Application>(login: &Value) -> Live<A> {
    let mut config = Config::default();
    config.database.tls = TlsMode::Disable;
    let source = Arc::new(MemoryManager { login: login.to_string(), signing_key: devstack::random_key() });
    Harness::start(source, config).await.expect("the database accepts the login").live()
}

/// A service that is nothing but its database.
struct DatabaseOnly(Database);

impl Application for DatabaseOnly {
    const PACKAGE: Package = Notes::PACKAGE;
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self(cx.database(&cx.secrets.database).await?))
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// A secrets manager in memory, with the credentials that the example needs.
struct MemoryManager {
    login: String,
    signing_key: String,
}

impl Source for MemoryManager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        _: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            if stage != Stage::Current {
                return Ok(Fetched::Absent);
            }
            let text = if id.as_str().ends_with("database") { &self.login } else { &self.signing_key };
            let version = VersionId::new("v1");
            Ok(Fetched::New(SecretValue { text: text.as_str().into(), version, created: None, lease: None }))
        })
    }

    fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async { Ok(Versions::new()) })
    }
}
