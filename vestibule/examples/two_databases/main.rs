//! A service with two databases: that of `[database]`, and that of `[databases.reports]`. Each has a login and migrations
//! of its own.
//!
//! `migrate` reads the credentials `migrator` and `migrator_reports`.

use axum::{Json, extract::State, routing::get};
use sqlx::migrate::Migrator;
use std::{process::ExitCode, sync::Arc};
use vestibule::{
    Application, Build, BuildError, Credential, Database, OpenApiRouter, Package, Problem, SecretSet,
    credentials::Login,
};

#[derive(SecretSet)]
struct Secrets {
    database: Credential<Login>,
    reports: Credential<Login>,
}

/// The service. Its one route shows the session at each database, as its process id at the server.
struct Shop {
    orders: Database,
    reports: Database,
}

// The folders are not beside a `Cargo.toml`. A package writes `package!(reports = "migrations/reports")`.
static ORDERS: Migrator = sqlx::migrate!("examples/two_databases/migrations");

impl Application for Shop {
    const PACKAGE: Package = Package {
        migrations: Some(&ORDERS),
        ..vestibule::package!(no_migrations, reports = "examples/two_databases/migrations/reports")
    };
    type Settings = ();
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self {
            orders: cx.database(&cx.secrets.database).await?,
            reports: cx.database_named("reports", &cx.secrets.reports).await?,
        })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().route("/", get(sessions))
    }
}

async fn sessions(State(shop): State<Arc<Shop>>) -> Result<Json<[i32; 2]>, Problem> {
    let of_orders = sqlx::query_scalar("SELECT pg_backend_pid() FROM (SELECT count(*) FROM orders) AS counted");
    let of_reports = sqlx::query_scalar("SELECT pg_backend_pid() FROM (SELECT count(*) FROM reports) AS counted");
    Ok(Json([of_orders.fetch_one(&shop.orders).await?, of_reports.fetch_one(&shop.reports).await?]))
}

fn main() -> ExitCode {
    vestibule::main::<Shop>()
}
