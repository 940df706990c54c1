//! Connection options and statements with names in them.

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Executor};

/// Returns options that name everything that sqlx would otherwise take from `PG*` variables.
pub(crate) fn connect_options(host: &str, port: u16, database: &str, role: &str, password: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(port)
        .database(database)
        .username(role)
        .password(password)
        .ssl_mode(PgSslMode::Disable)
}

/// Runs a statement in which the server replaces `%I` and `%L` with the arguments. This is the one place that quotes.
pub(crate) async fn format_and_run(
    connection: &mut PgConnection,
    statement: &str,
    arguments: &[&str],
) -> Result<(), sqlx::Error> {
    let formatted: String = sqlx::query_scalar("SELECT format($1, VARIADIC $2::text[])")
        .bind(statement)
        .bind(arguments)
        .fetch_one(&mut *connection)
        .await?;
    connection.execute(AssertSqlSafe(formatted)).await?;
    Ok(())
}
