//! A small service: five API keys, one route, no database. `check --live` fetches and validates the five.

use axum::{Router, extract::State, routing::get};
use sqlx::migrate::Migrator;
use std::{process::ExitCode, sync::Arc};
use vestibule::{Application, Build, BuildError, Credential, Package, SecretSet, credentials::ApiKey};

#[derive(SecretSet)]
struct Secrets {
    first: Credential<ApiKey>,
    second: Credential<ApiKey>,
    third: Credential<ApiKey>,
    fourth: Credential<ApiKey>,
    fifth: Credential<ApiKey>,
}

struct Five {
    versions: String,
}

static NO_MIGRATIONS: Migrator = Migrator::DEFAULT;

impl Application for Five {
    const PACKAGE: Package = Package { name: "five", version: "0.1.0", migrations: &NO_MIGRATIONS };
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let Secrets { first, second, third, fourth, fifth } = cx.secrets;
        let versions = [first, second, third, fourth, fifth].map(|key| format!("{} {}\n", key.name(), key.version()));
        Ok(Self { versions: versions.concat() })
    }

    fn routes() -> Router<Arc<Self>> {
        Router::new().route("/", get(async |State(five): State<Arc<Self>>| five.versions.clone()))
    }
}

fn main() -> ExitCode {
    vestibule::main::<Five>()
}
