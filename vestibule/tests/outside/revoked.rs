//! A version that the configuration revokes stays for nobody's sake.

use crate::{NO_MIGRATIONS, memory::Memory};
use axum::Router;
use futures_util::future::BoxFuture;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use vestibule::testing::Harness;
use vestibule::{
    Application, Build, BuildError, Credential, Package, SecretSet,
    config::{Config, SecretsConfig as Section},
    credentials::ApiKey,
    exit::Exit,
    resources::{Rejection, Resource},
    secrets::{ExposeSecret, Fetched, SecretId, Source, SourceError, Stage, VersionId, Versions},
};

#[derive(SecretSet)]
struct Secrets {
    doubted: Credential<ApiKey>,
    other: Credential<ApiKey>,
}

/// What the other side has refused since, if it was built with the key `refused`.
#[derive(Clone)]
struct Doubted(Option<Rejection>);

impl Resource for Doubted {
    fn rejection(&self) -> Option<Rejection> {
        self.0.clone()
    }
}

struct Probe {
    versions: [String; 2],
}

impl Application for Probe {
    const PACKAGE: Package = Package { name: "probe", version: "0", migrations: &NO_MIGRATIONS };
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let Secrets { doubted, other } = cx.secrets;
        cx.resource(doubted, &(), async |_| {
            let refused = doubted.expose_secret() == "refused";
            Ok(Doubted(refused.then(|| Rejection::of(doubted, "it is unknown"))))
        })
        .await?;
        Ok(Self { versions: [doubted, other].map(|key| key.version().to_string()) })
    }

    fn routes() -> Router<Arc<Self>> {
        Router::new()
    }
}

#[tokio::test]
async fn a_revoked_version_is_not_carried_over_for_the_sake_of_a_refused_one() {
    let memory = Memory::with([("doubted", "refused"), ("other", "first")]);
    let held = memory.rotate("other", "second");
    let probe = Harness::<Probe>::start(memory.clone(), Config::default()).await.unwrap();
    memory.rotate("other", "two words");
    let accepted = memory.rotate("doubted", "accepted");

    let revoked = [VersionId::new(held.clone())].into();
    let secrets = Section { revoked, ..Section::default() };
    let report = probe.reload_with(Config { secrets, ..Config::default() }).await.unwrap_err();
    assert_eq!(report.exit(), Exit::Malformed);
    assert!(report.to_string().contains("credential `other`"), "{report}");
    assert_eq!(probe.live().generation().number, 1);

    assert!(probe.reload().await.unwrap(), "else it is");
    assert_eq!(probe.live().service().versions, [accepted, held]);
}

/// A manager whose next answer for a current version is from before a rotation.
struct Lagging {
    before: Arc<Memory>,
    after: Arc<Memory>,
    lags: AtomicBool,
}

impl Source for Lagging {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        let old = stage == Stage::Current && id.as_str() == "other" && self.lags.swap(false, Ordering::SeqCst);
        if old { self.before.fetch(id, stage, held) } else { self.after.fetch(id, stage, held) }
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        self.after.versions(id)
    }
}

#[tokio::test]
async fn an_answer_that_lags_behind_the_rotation_is_read_again() {
    let keys = || Memory::with([("doubted", "accepted"), ("other", "first")]);
    let manager = Arc::new(Lagging { before: keys(), after: keys(), lags: AtomicBool::new(false) });
    let probe = Harness::<Probe>::start(manager.clone(), Config::default()).await.unwrap();
    let [doubted, leaked] = probe.live().service().versions.clone();
    assert_eq!(doubted, leaked, "each secret counts its versions from the same one");
    manager.after.rotate("doubted", "accepted");
    let good = manager.after.rotate("other", "second");
    manager.lags.store(true, Ordering::SeqCst);

    let secrets = Section { revoked: [VersionId::new(leaked)].into(), ..Section::default() };
    assert!(probe.reload_with(Config { secrets, ..Config::default() }).await.unwrap());
    assert!(!manager.lags.load(Ordering::SeqCst));
    assert_eq!(probe.live().service().versions[1], good);
}
