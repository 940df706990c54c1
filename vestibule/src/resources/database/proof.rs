//! The proof of a database: one login, and one look at its schema.

use super::{
    error::{fault, is_full, is_rejected, reason, sqlstate, transient, unanswered},
    pooled::Pooled,
};
use crate::{
    backoff::Backoff,
    config::settings::DatabaseConfig,
    credentials::login::Login,
    exit::{Exit, Fault},
    package::Package,
    resources::{breaker::Breaker, build_error::BuildError, context::LoadContext, rejection::Rejection},
    secrets::credential::Credential,
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::{sync::Arc, time::Duration};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// The timeout of one login.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);

/// Proves that the database accepts the login, and that the schema is new enough. `old_pool` is the pool in service.
pub(super) async fn prove(
    login: &Credential<Login>,
    options: &PgConnectOptions,
    breaker: &Arc<Breaker>,
    old_pool: Option<&Arc<Pooled>>,
    context: &LoadContext<'_>,
) -> Result<(), BuildError> {
    let deadline = context.deadline;
    let attempt = breaker.allow(context.probe_reason, Instant::now())?;
    // Keeps the place of a connection that was closed for this one, until the proof ends.
    let mut freed_permit = None;
    let connecting = connect(login, options, context.database, deadline, old_pool, &mut freed_permit);
    let mut connection = match connecting.await {
        Ok(connection) => connection,
        Err(BuildError::Rejected(rejection)) => {
            attempt.rejected(rejection.clone(), Instant::now());
            return Err(rejection.into());
        }
        Err(fault) => return Err(fault),
    };
    attempt.accepted();
    let checking = async {
        let checked = check_schema(&mut connection, context.package).await;
        // The pool opens its own connections.
        let _ = connection.close().await;
        checked
    };
    let checked = tokio::time::timeout_at(deadline, checking).await.unwrap_or_else(|_| Err(unanswered()));
    match checked {
        // In a reload a schema that is behind only warns. Otherwise a rollout would keep old replicas from rotating.
        Err(fault) if context.is_start() || fault.exit != Exit::Unavailable => Err(BuildError::Fault(fault)),
        Err(fault) => {
            tracing::warn!(problem = fault.problem, "the schema is behind this binary, or could not be read");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Checks that every migration of this binary was applied.
async fn check_schema(connection: &mut PgConnection, package: &Package) -> Result<(), Fault> {
    let needed: Vec<i64> = package
        .migrations
        .iter()
        .filter(|migration| !migration.migration_type.is_down_migration())
        .map(|migration| migration.version)
        .collect();
    if needed.is_empty() {
        return Ok(());
    }
    let applied = sqlx::query_as("SELECT version, success FROM _sqlx_migrations").fetch_all(connection).await;
    let applied: Vec<(i64, bool)> = match applied {
        Ok(applied) => applied,
        Err(error) => {
            return Err(match sqlstate(&error).as_deref() {
                Some("42P01") => behind(package, "no migration was applied".into()),
                Some("42501") => Fault::new(
                    Exit::Denied,
                    "database schema",
                    "the login may not read the table _sqlx_migrations",
                    format!(
                        "make its role a member of database.access_role, set that for `{} migrate` too, and run it",
                        package.name
                    ),
                ),
                _ => fault(&error),
            });
        }
    };
    if let Some((version, _)) = applied.iter().find(|(_, success)| !success) {
        return Err(behind(package, format!("migration {version} failed halfway")));
    }
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|version| !applied.iter().any(|(applied, _)| applied == version))
        .map(|version| version.to_string())
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        let problem = format!("this binary needs migrations that were not applied: {}", missing.join(", "));
        Err(behind(package, problem))
    }
}

/// Returns the fault of a schema that is behind this binary.
fn behind(package: &Package, problem: String) -> Fault {
    let remedy = format!("run `{} migrate`, then start again", package.name);
    Fault::new(Exit::Unavailable, "database schema", problem, remedy)
}

/// Logs in once. Repeats attempts that may succeed later (no answer, starting up, too many connections) until the
/// deadline.
///
/// If the server has no connection left, closes one connection of `old_pool`, once. The permit of that connection goes to
/// `freed_permit`: while the caller keeps it, nobody opens another connection in its place.
pub(crate) async fn connect(
    login: &Credential<Login>,
    options: &PgConnectOptions,
    config: &DatabaseConfig,
    deadline: Instant,
    old_pool: Option<&Arc<Pooled>>,
    freed_permit: &mut Option<OwnedSemaphorePermit>,
) -> Result<PgConnection, BuildError> {
    let mut backoff = Backoff::until(deadline);
    loop {
        let until = deadline.min(Instant::now() + ATTEMPT);
        let connecting = PgConnection::connect_with(options);
        let fault = match tokio::time::timeout_at(until, connecting).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if is_rejected(&error) => {
                return Err(Rejection::of(login, reason(&error)).into());
            }
            Ok(Err(error)) if !transient(&error) => return Err(BuildError::Fault(fault(&error))),
            Ok(Err(error)) => {
                if let Some(old_pool) = old_pool
                    && freed_permit.is_none()
                    && is_full(&error)
                {
                    *freed_permit = tokio::time::timeout_at(deadline, old_pool.close_one()).await.ok().flatten();
                }
                fault(&error)
            }
            Err(_) => unanswered(),
        };
        if !backoff.wait().await {
            let host = login.host.as_deref().unwrap_or(&config.host);
            let port = login.port.unwrap_or(config.port.get());
            return Err(BuildError::Fault(Fault { subject: format!("database at {host}:{port}"), ..fault }));
        }
    }
}
