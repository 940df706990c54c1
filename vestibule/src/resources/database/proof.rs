//! The proof that a login opens the database, and that the schema is the one this binary needs.

use super::Database;
use crate::{
    backoff::Backoff,
    config,
    credentials::login::Login,
    exit::{Exit, Fault},
    package::Package,
    resources::{breaker::Breaker, build_error::BuildError, context::LoadContext, rejection::Rejection},
    secrets::credential::Credential,
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::time::Duration;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// The longest that one login may take.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);

/// Proves that a login opens the database and that the schema is new enough.
pub(super) async fn prove(
    login: &Credential<Login>,
    options: &PgConnectOptions,
    breaker: &Breaker,
    before: Option<&Database>,
    context: &LoadContext<'_>,
) -> Result<(), BuildError> {
    let deadline = context.deadline;
    breaker.allow(context.probe_reason, Instant::now())?;
    let mut room = None;
    let mut connection = match connect(login, options, context.database, deadline, before, &mut room).await {
        Ok(connection) => connection,
        Err(BuildError::Rejected(rejection)) => {
            breaker.rejected(rejection.clone(), Instant::now());
            return Err(rejection.into());
        }
        Err(fault) => return Err(fault),
    };
    breaker.accepted();
    let checking = async {
        let checked = check_schema(&mut connection, context.package).await;
        // The pool makes its own connections; this one has done its work.
        let _ = connection.close().await;
        checked
    };
    let checked = tokio::time::timeout_at(deadline, checking).await.unwrap_or_else(|_| Err(unanswered()));
    match checked {
        // In a reload a schema that is behind only warns. Otherwise a rollout would keep old replicas from rotating.
        Err(fault) if context.is_start() || fault.exit != Exit::Unavailable => Err(BuildError::Fault(fault)),
        Err(fault) => {
            tracing::warn!(problem = fault.problem, "the schema is behind this binary, or could not be looked at");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn check_schema(connection: &mut PgConnection, package: &Package) -> Result<(), Fault> {
    let needed = || package.migrations.iter().filter(|migration| !migration.migration_type.is_down_migration());
    if needed().next().is_none() {
        return Ok(());
    }
    let behind = |problem: String| {
        Fault::new(
            Exit::Unavailable,
            "database schema",
            problem,
            format!("run `{} migrate`, then start again", package.name),
        )
    };
    let applied = sqlx::query_as("SELECT version, success FROM _sqlx_migrations").fetch_all(connection).await;
    let applied: Vec<(i64, bool)> = match applied {
        Ok(applied) => applied,
        Err(error) => {
            return Err(match code(&error).as_deref() {
                Some("42P01") => behind("no migration was applied".into()),
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
        return Err(behind(format!("migration {version} ended halfway")));
    }
    let missing: Vec<_> = needed()
        .map(|migration| migration.version)
        .filter(|version| !applied.iter().any(|(applied, _)| applied == version))
        .map(|version| version.to_string())
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(behind(format!("this binary needs migrations that were not applied: {}", missing.join(", "))))
    }
}

/// Logs in once. What may pass (no answer, starting up, too many connections) is tried again until the deadline. Where
/// the server has no connection left, `before` gives one up; its place is kept in `room`.
pub(crate) async fn connect(
    login: &Credential<Login>,
    options: &PgConnectOptions,
    config: &config::DatabaseConfig,
    deadline: Instant,
    before: Option<&Database>,
    room: &mut Option<OwnedSemaphorePermit>,
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
                if let Some(before) = before.filter(|_| room.is_none() && full(&error)) {
                    *room = tokio::time::timeout_at(deadline, before.0.give_up_one()).await.ok().flatten();
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

fn unanswered() -> Fault {
    Fault::new(
        Exit::Deadline,
        "database",
        "it did not answer before the deadline",
        "check database.host and database.port, and the way there (route, firewall); then start again",
    )
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// The database does not take this login: SQLSTATE class 28. Too many connections (53300) is busy, not refused.
pub(super) fn is_rejected(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("28P01" | "28000"))
}

/// The server, or the role, has as many connections as it may have.
fn full(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("53300")
}

/// What a later attempt may not meet: no connection, starting up or shutting down, no room, a lock or a deadlock.
pub(crate) fn transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        error => matches!(
            code(error).as_deref(),
            Some("08001" | "08006" | "40P01" | "53300" | "55P03" | "57014" | "57P01" | "57P02" | "57P03")
        ),
    }
}

pub(super) fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => format!("connecting failed: {}", error.kind()),
        sqlx::Error::Tls(_) => "TLS could not be agreed on".into(),
        _ => "the server does not answer as PostgreSQL does".into(),
    }
}

/// What a failure of the database means for a start.
pub(crate) fn fault(error: &sqlx::Error) -> Fault {
    let (exit, remedy) = match (error, code(error).as_deref()) {
        (_, Some("28P01" | "28000" | "42501")) => {
            (Exit::Denied, "give the login's role the right, or put another login at the manager")
        }
        (_, Some("40P01" | "55P03" | "57014")) => {
            (Exit::Unavailable, "find who holds the lock (pg_locks, pg_stat_activity), and try again")
        }
        (_, Some("3D000")) => (Exit::Unavailable, "create the database, or correct database.name"),
        (sqlx::Error::Tls(_) | sqlx::Error::Configuration(_), _) => {
            (Exit::Unavailable, "check database.tls and database.tls_root_cert against what the server offers")
        }
        _ => (Exit::Unavailable, "check database.host and database.port, and the server's health; then start again"),
    };
    Fault::new(exit, "database", reason(error), remedy)
}
