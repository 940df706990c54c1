//! The proof of a database: one login, and one look at its schema.

use super::{
    error::{Damage, fault, is_full, is_rejected, reason, sqlstate, transient, unanswered},
    lease::Lease,
    log_in::LogInOptions,
    login::PoolLogin,
    pool::{LOGIN_TIMEOUT, Pool},
    section::DatabaseSection,
};
use crate::{
    backoff::Backoff,
    exit::{Exit, Fault},
    package::Package,
    resources::{build_error::BuildError, context::LoadContext},
};
use sqlx::{FromRow, PgConnection, migrate::Migrator};
use std::sync::Arc;
use tokio::time::{Instant, error::Elapsed, timeout_at};

/// Proves that the database accepts the login, and that the schema is new enough. Returns the connection.
pub(super) async fn prove(
    pool: &Arc<Pool>,
    login: &Arc<PoolLogin>,
    section: DatabaseSection<'_>,
    context: &LoadContext<'_>,
) -> Result<Lease, BuildError> {
    let of_section = |fault| BuildError::Fault(section.name_in(fault));
    let deadline = context.deadline_of(login.breaker.credential());
    let attempt = login.breaker.allow(context.probe_reason)?;
    let mut lease = pool.place();
    let _permit = timeout_at(deadline, pool.login_permit()).await.map_err(|_| of_section(unanswered()))?;
    let of_others = if pool.logs_in_with(login) { None } else { Some(pool) };
    let schema = section.migrations.map(|migrations| Schema { migrations, package: context.package });
    let connected = connect(&login.options, deadline, of_others, context.is_start(), schema).await;
    let (connection, fault) = match connected {
        Ok(connected) => connected,
        Err(ConnectError::Rejected(error)) => return Err(attempt.rejected(reason(&error)).into()),
        // Dropped without a report, the attempt is inconclusive.
        Err(ConnectError::Fault(fault)) => return Err(of_section(fault)),
    };
    attempt.accepted();
    lease.connect(connection, login.clone());
    match fault {
        // In a reload a schema that is behind only warns. Otherwise a rollout would keep old replicas from rotating.
        Some(fault) if context.is_start() || fault.exit != Exit::Unavailable => Err(of_section(fault)),
        Some(fault) => {
            tracing::warn!(
                database = section.key(),
                problem = fault.problem,
                "the schema is behind this binary, or could not be read"
            );
            Ok(lease)
        }
        None => Ok(lease),
    }
}

/// The schema that this binary needs.
#[derive(Clone, Copy)]
pub(crate) struct Schema<'a> {
    migrations: &'a Migrator,
    package: &'a Package,
}

impl Schema<'_> {
    /// Returns the fault of a schema that lacks a migration, or that the login may not read.
    ///
    /// # Errors
    /// An error that ends the connection. It says nothing about the schema, and a proxy may have accepted the login alone.
    async fn look(self, connection: &mut PgConnection) -> Result<Option<Fault>, sqlx::Error> {
        let Self { migrations, package } = self;
        let needed: Vec<i64> = migrations
            .iter()
            .filter(|migration| !migration.migration_type.is_down_migration())
            .map(|migration| migration.version)
            .collect();
        if needed.is_empty() {
            return Ok(None);
        }
        // Not prepared: that would be a round trip more, and a statement that nobody uses again.
        let applied = sqlx::raw_sql("SELECT version, success FROM _sqlx_migrations").fetch_all(connection).await;
        let applied = applied.and_then(|rows| rows.iter().map(FromRow::from_row).collect());
        let applied: Vec<(i64, bool)> = match applied {
            Ok(applied) => applied,
            Err(error) if Damage::of(&error) == Some(Damage::Connection) => return Err(error),
            Err(error) => {
                return Ok(Some(match sqlstate(&error).as_deref() {
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
                }));
            }
        };
        if let Some((version, _)) = applied.iter().find(|(_, success)| !success) {
            return Ok(Some(behind(package, format!("migration {version} failed halfway"))));
        }
        let missing: Vec<_> = needed
            .into_iter()
            .filter(|version| !applied.iter().any(|(applied, _)| applied == version))
            .map(|version| version.to_string())
            .collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let problem = format!("this binary needs migrations that were not applied: {}", missing.join(", "));
        Ok(Some(behind(package, problem)))
    }
}

/// Returns the fault of a schema that is behind this binary.
fn behind(package: &Package, problem: String) -> Fault {
    let remedy = format!("run `{} migrate`, then start again", package.name);
    Fault::new(Exit::Unavailable, "database schema", problem, remedy)
}

/// A log-in that failed.
pub(crate) enum ConnectError {
    /// The database rejects the login.
    Rejected(sqlx::Error),
    Fault(Fault),
}

/// The step of an attempt that failed.
enum Failed {
    LogIn(sqlx::Error),
    Look(sqlx::Error),
}

impl Failed {
    fn fault(&self) -> Fault {
        match self {
            Self::Look(error) if is_rejected(error) => Fault::new(
                Exit::Unavailable,
                "database",
                format!("the server rejects a login of the proxy: {}", reason(error)),
                "the proxy has accepted the service's login; mend the one with which the proxy itself logs in",
            ),
            Self::LogIn(error) | Self::Look(error) => fault(error),
        }
    }
}

/// Logs in, and looks at the schema: returns its fault too. Repeats a log-in that may succeed later (no answer, starting up, too
/// many connections) until the deadline, and both if the connection ends in the look: behind a proxy, the look may be the first
/// that the server answers. If that rejects a login there, it is the proxy's: it has accepted ours. A look may take until the
/// deadline, because a lock may hold it up.
///
/// If the server has no connection left, closes one connection of `pool`, which has another login, once. Its place stays taken
/// until the end of this call, so that nobody opens another connection in it. `is_start` has the first attempt that fails logged.
pub(crate) async fn connect(
    options: &LogInOptions,
    deadline: Instant,
    pool: Option<&Arc<Pool>>,
    is_start: bool,
    schema: Option<Schema<'_>>,
) -> Result<(PgConnection, Option<Fault>), ConnectError> {
    let mut backoff = Backoff::until(deadline);
    let mut freed_place = None;
    let mut is_logged = !is_start;
    let at_place = |fault| {
        let options = &options.connection;
        let subject = format!("database at {}:{}", options.get_host(), options.get_port());
        ConnectError::Fault(Fault { subject, ..fault })
    };
    loop {
        let until = deadline.min(Instant::now() + LOGIN_TIMEOUT);
        // In a box, because the compiler gives up on futures that are nested more deeply.
        let looked = Box::pin(async {
            let mut connection = match timeout_at(until, options.log_in()).await? {
                Ok(connection) => connection,
                Err(error) => return Ok(Err(Failed::LogIn(error))),
            };
            let looked = match &schema {
                Some(schema) => timeout_at(deadline, schema.look(&mut connection)).await?,
                None => Ok(None),
            };
            Ok::<_, Elapsed>(looked.map(|fault| (connection, fault)).map_err(Failed::Look))
        });
        let fault = match looked.await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(Failed::LogIn(error))) if is_rejected(&error) => return Err(ConnectError::Rejected(error)),
            Ok(Err(Failed::LogIn(error))) if !transient(&error) => return Err(at_place(fault(&error))),
            Ok(Err(failed)) => {
                let (Failed::LogIn(error) | Failed::Look(error)) = &failed;
                if let Some(pool) = pool
                    && freed_place.is_none()
                    && is_full(error)
                {
                    freed_place = pool.give_up_one(deadline.min(Instant::now() + LOGIN_TIMEOUT)).await;
                }
                failed.fault()
            }
            Err(_) => unanswered(),
        };
        if !is_logged {
            let (host, problem) = (options.connection.get_host(), &fault.problem);
            tracing::warn!(server.address = host, problem, "the database cannot be reached; trying until the deadline");
            is_logged = true;
        }
        if !backoff.wait().await {
            return Err(at_place(fault));
        }
    }
}
