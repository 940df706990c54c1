//! A version that the configuration revokes.

use futures_util::future::BoxFuture;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use vestibule::testing::{Harness, MemoryManager};
use vestibule::{
    Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet,
    config::{Config, SecretsConfig},
    credentials::ApiKey,
    exit::Exit,
    resources::{Rejection, Resource},
    secrets::{ExposeSecret, Fetched, SecretId, Source, SourceError, Stage, VersionId, Versions},
};

#[derive(SecretSet)]
struct Secrets {
    checked: Credential<ApiKey>,
    other: Credential<ApiKey>,
}

/// A user of a key. The other side rejects the key `rejected` after the build.
#[derive(Clone)]
struct KeyUser(Option<Rejection>);

impl Resource for KeyUser {
    fn rejection(&self) -> Option<Rejection> {
        self.0.clone()
    }
}

/// A service with two keys, of which the other side checks one.
struct TwoKeys {
    /// The versions of the checked key and of the other one.
    versions: [VersionId; 2],
}

impl Application for TwoKeys {
    const PACKAGE: Package = Package::new("two-keys", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let Secrets { checked, other } = cx.secrets;
        cx.resource(checked, &(), async |_| {
            if checked.expose_secret() == "rejected" {
                Ok(KeyUser(Some(Rejection::of(checked, "the key is unknown"))))
            } else {
                Ok(KeyUser(None))
            }
        })
        .await?;
        Ok(Self { versions: [checked, other].map(|key| key.version().clone()) })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

#[tokio::test]
async fn a_revoked_version_that_cannot_be_replaced_holds_up_no_rejected_one() {
    let manager = MemoryManager::with([("checked", "rejected"), ("other", "first")]);
    let current = manager.rotate("other", "second");
    let service = Harness::<TwoKeys>::start(manager.clone(), Config::default()).await.unwrap();
    manager.rotate("other", "two words");
    let accepted = manager.rotate("checked", "accepted");

    let revoked = [current.clone()].into();
    let secrets = SecretsConfig { revoked, ..SecretsConfig::default() };
    assert!(service.reload_with(Config { secrets, ..Config::default() }).await.unwrap());
    assert_eq!(service.live().service().versions, [accepted, current]);

    manager.rotate("checked", "accepted too");
    let report = service.reload().await.unwrap_err();
    assert_eq!(report.exit(), Exit::Malformed, "nothing else must be replaced: {report}");
    assert!(report.to_string().contains("credential `other`"), "{report}");
    assert_eq!(service.live().generation().number, 2);
}

/// A manager that can give an answer from before a rotation.
struct LaggingManager {
    before: Arc<MemoryManager>,
    after: Arc<MemoryManager>,
    /// `true` if the next answer for the current version of `other` is from before the rotation.
    lags: AtomicBool,
}

impl Source for LaggingManager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        let is_old = stage == Stage::Current && id.as_str() == "other" && self.lags.swap(false, Ordering::SeqCst);
        if is_old { self.before.fetch(id, stage, held) } else { self.after.fetch(id, stage, held) }
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        self.after.versions(id)
    }
}

#[tokio::test]
async fn an_answer_from_before_the_rotation_is_read_again() {
    let keys = || MemoryManager::with([("checked", "accepted"), ("other", "first")]);
    let manager = Arc::new(LaggingManager { before: keys(), after: keys(), lags: AtomicBool::new(false) });
    let service = Harness::<TwoKeys>::start(manager.clone(), Config::default()).await.unwrap();
    let [_, leaked] = service.live().service().versions.clone();
    let good = manager.after.rotate("other", "second");
    manager.lags.store(true, Ordering::SeqCst);

    let secrets = SecretsConfig { revoked: [leaked].into(), ..SecretsConfig::default() };
    assert!(service.reload_with(Config { secrets, ..Config::default() }).await.unwrap());
    assert!(!manager.lags.load(Ordering::SeqCst));
    assert_eq!(service.live().service().versions[1], good);
}
