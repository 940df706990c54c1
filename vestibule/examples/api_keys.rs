//! A service without a database. It holds five API keys, and its one route shows their versions.
//!
//! Its command `check --live` fetches and validates the keys.

use axum::{extract::State, routing::get};
use std::{process::ExitCode, sync::Arc};
use vestibule::{Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet, credentials::ApiKey};

/// The credentials. A field's name is the credential's name.
#[derive(SecretSet)]
struct Secrets {
    first: Credential<ApiKey>,
    second: Credential<ApiKey>,
    third: Credential<ApiKey>,
    fourth: Credential<ApiKey>,
    fifth: Credential<ApiKey>,
}

/// The service.
struct ApiKeys {
    /// A line per key, with its name and version.
    versions: String,
}

impl Application for ApiKeys {
    const PACKAGE: Package = Package::new("api-keys", "0.1.0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let Secrets { first, second, third, fourth, fifth } = cx.secrets;
        let versions = [first, second, third, fourth, fifth].map(|key| format!("{} {}\n", key.name(), key.version()));
        Ok(Self { versions: versions.concat() })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().route("/", get(async |State(service): State<Arc<Self>>| service.versions.clone()))
    }
}

fn main() -> ExitCode {
    vestibule::main::<ApiKeys>()
}
