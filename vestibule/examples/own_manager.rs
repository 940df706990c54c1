//! A service with a secrets manager of its own: a folder, as a sidecar could mount it.
//!
//! ```text
//! <service.folder>/<id of the secret>/v1               a version: its value
//!                                     v2
//!                                     current ─► v2    a link for each stage: current, pending, previous
//!                                     previous ─► v1
//! ```
//!
//! All commands use this manager: `serve`, `check --live`, `migrate`, and `audit`.

use axum::{extract::State, routing::get};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::migrate::Migrator;
use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};
use tokio::fs;
use vestibule::{
    Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet,
    config::Config,
    credentials::ApiKey,
    exit::{Exit, Fault},
    secrets::{Fetched, SecretId, SecretValue, Source, SourceError, Stage, VersionId, Versions},
};
use zeroize::Zeroizing;

#[derive(SecretSet)]
struct Secrets {
    payment: Credential<ApiKey>,
}

#[derive(Default, Serialize, Deserialize, vestibule::ConfigSection)]
#[serde(default)]
struct Settings {
    /// The folder with the secrets.
    folder: PathBuf,
}

/// The service. Its one route shows the version of its key.
struct Payments {
    version: String,
}

/// Migrations, so that `migrate` asks for the login of its role. A service has files for them: `package!()`.
static MIGRATIONS: Migrator = Migrator::DEFAULT;

impl Application for Payments {
    const PACKAGE: Package = Package { migrations: Some(&MIGRATIONS), ..Package::new("payments", "0.1.0") };
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self { version: cx.secrets.payment.version().to_string() })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().route("/", get(async |State(service): State<Arc<Self>>| service.version.clone()))
    }
}

/// A folder with secrets.
struct SecretFolder(PathBuf);

impl SecretFolder {
    /// Opens the folder that the settings name.
    async fn open(config: &Config<Settings>) -> Result<Self, Fault> {
        let folder = config.service.folder.clone();
        match fs::read_dir(&folder).await {
            Ok(_) => Ok(Self(folder)),
            Err(error) => Err(Fault {
                exit: Exit::Config,
                subject: "setting service.folder".into(),
                problem: format!("the folder cannot be read: {error}"),
                remedy: "set it to the folder with the secrets".into(),
            }),
        }
    }

    /// Returns the version that the link of a stage names. Returns `None` if there is no link.
    async fn version(&self, id: &SecretId, stage: Stage) -> io::Result<Option<VersionId>> {
        match fs::read_link(self.0.join(id.as_str()).join(self.stage_label(stage))).await {
            Ok(target) => Ok(Some(VersionId::new(target.to_string_lossy()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Source for SecretFolder {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let Some(version) = self.version(id, stage).await.map_err(source_error)? else {
                return Ok(Fetched::Absent);
            };
            if held == Some(&version) {
                return Ok(Fetched::Same);
            }
            let file = self.0.join(id.as_str()).join(version.as_str());
            // The buffer is wiped. `SecretString` makes an exact copy, and wipes that too.
            let text = Zeroizing::new(fs::read_to_string(file).await.map_err(source_error)?);
            Ok(Fetched::New(SecretValue { text: text.as_str().into(), version, created: None, lease: None }))
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async move {
            let mut versions = Versions::new();
            for stage in [Stage::Current, Stage::Pending, Stage::Previous] {
                if let Some(version) = self.version(id, stage).await.map_err(source_error)? {
                    versions.insert(stage, version);
                }
            }
            Ok(versions)
        })
    }
}

fn source_error(error: io::Error) -> SourceError {
    match error.kind() {
        ErrorKind::PermissionDenied => SourceError::Denied("the file may not be read".into()),
        ErrorKind::InvalidData => SourceError::Malformed("the value is not text".into()),
        _ => SourceError::Unavailable(format!("the file cannot be read: {error}")),
    }
}

fn main() -> ExitCode {
    vestibule::main_with::<Payments, _>(SecretFolder::open)
}
