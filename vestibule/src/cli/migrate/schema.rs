//! The schema: applies the migrations, and grants the service's role access to the tables.

use crate::{
    credentials::login::PostgresName,
    exit::{Exit, Fault},
    resources::database,
};
use sqlx::{
    AssertSqlSafe, PgConnection,
    migrate::{MigrateError, Migration, Migrator},
};
use std::borrow::Cow;
use tokio::time::Instant;

/// Makes each wait for a lock end by the deadline: for another `migrate`, and for a table. A migration itself may take
/// longer.
pub(super) async fn limit_lock_waits(connection: &mut PgConnection, deadline: Instant) -> Result<(), Fault> {
    // 0 means no limit, and the largest value that PostgreSQL accepts is an int of milliseconds.
    let timeout_ms = deadline.saturating_duration_since(Instant::now()).as_millis().clamp(1, i32::MAX as u128);
    sqlx::query("SELECT set_config('lock_timeout', $1, false)")
        .bind(timeout_ms.to_string())
        .execute(connection)
        .await
        .map_err(|error| database::fault(&error))?;
    Ok(())
}

/// Applies the missing migrations, under PostgreSQL's advisory lock. Leaves a newer schema as it is: during a rollout
/// or after a rollback, the older binary's `migrate` may run too.
pub(super) async fn apply(migrations: Cow<'static, [Migration]>, connection: &mut PgConnection) -> Result<(), Fault> {
    let mut migrator = Migrator { migrations, ..Migrator::DEFAULT };
    migrator.set_ignore_missing(true);
    migrator.run(connection).await.map_err(migrate_fault)
}

fn migrate_fault(error: MigrateError) -> Fault {
    match error {
        MigrateError::Execute(error) => database::fault(&error),
        MigrateError::ExecuteMigration(error, version) => migration_fault(version, &error),
        MigrateError::VersionMismatch(version) => broken(
            version,
            "it was changed after it was applied to this database",
            "restore its file, and put the change into a new migration",
        ),
        MigrateError::Dirty(version) => broken(
            version,
            "it was applied in part",
            "repair the schema by hand, then delete or correct its row in _sqlx_migrations",
        ),
        error => Fault::new(Exit::Bug, "migrations", error.to_string(), "correct the files in migrations/"),
    }
}

/// Returns the fault of a migration that failed. It is a bug if the database rejects its SQL.
fn migration_fault(version: i64, error: &sqlx::Error) -> Fault {
    let fault = Fault { subject: format!("migration {version}"), ..database::fault(error) };
    match error.as_database_error() {
        Some(database_error) if fault.exit == Exit::Unavailable && !database::transient(error) => Fault {
            exit: Exit::Bug,
            problem: database_error.message().to_owned(),
            remedy: "correct its SQL; its changes were rolled back, unless it runs outside of a transaction".into(),
            ..fault
        },
        _ => fault,
    }
}

/// Returns the fault of a migration that does not fit the rows in `_sqlx_migrations`.
fn broken(version: i64, problem: &str, remedy: &str) -> Fault {
    Fault::new(Exit::Bug, format!("migration {version}"), problem, remedy)
}

/// Lets the group role read and write in all tables, also in those that later migrations create.
///
/// The service's logins are members of this role. Their own names change, with Vault and with alternating users.
pub(super) async fn grant(role: &PostgresName, connection: &mut PgConnection) -> Result<(), Fault> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(&**role)
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| database::fault(&error))?;
    if !exists {
        return Err(Fault::new(
            Exit::Config,
            format!("database.access_role = {role}"),
            "the database has no such role",
            "create it (CREATE ROLE … NOLOGIN) and make the service's login a member, or remove the setting",
        ));
    }
    let quoted = role.quoted();
    let statements = [
        "GRANT USAGE ON SCHEMA public TO",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO",
        "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO",
        "REVOKE INSERT, UPDATE, DELETE ON _sqlx_migrations FROM",
    ]
    .map(|statement| format!("{statement} {quoted};"))
    .concat();
    // Safe: the role is quoted.
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await.map_err(|error| database::fault(&error))?;
    Ok(())
}
