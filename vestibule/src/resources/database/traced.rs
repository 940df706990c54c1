//! The spans of statements, and of waits for a connection.
//!
//! The database is not told of the trace. A comment in each statement could do that, but a statement with another text is
//! another one: PostgreSQL would prepare each anew.

use super::login::PoolLogin;
use crate::traces::{ChildKind, OpenSpan};
use sqlx::{
    Execute, Postgres, SqlStr,
    error::{BoxDynError, DatabaseError},
    postgres::{PgArguments, PgStatement},
};

/// Begins a span, if the current request is sampled.
pub(super) fn begin(login: &PoolLogin, kind: ChildKind) -> Option<OpenSpan> {
    let mut span = login.tracer.begin_child(kind)?;
    let (host, port, database) = login.place();
    span.set("db.system.name", "postgresql");
    span.set("db.namespace", database.unwrap_or_default());
    span.set("server.address", host);
    span.set_number("server.port", port);
    Some(span)
}

/// Begins the span of a statement, if the current request is sampled.
pub(super) fn begin_statement(login: &PoolLogin, sql: &str) -> Option<OpenSpan> {
    let mut span = begin(login, ChildKind::Call)?;
    span.describe_query(sql);
    Some(span)
}

/// Ends a span with a result. Of an error, the span has the code of the database: a message may have values.
pub(super) fn end<T>(span: Option<OpenSpan>, result: &Result<T, sqlx::Error>) {
    let Some(mut span) = span else { return };
    let Err(error) = result else { return span.succeed() };
    match error.as_database_error().and_then(DatabaseError::code) {
        Some(code) => {
            span.set("db.response.status_code", &code);
            span.fail(&code);
        }
        None => span.fail(match error {
            sqlx::Error::PoolTimedOut => "timeout",
            sqlx::Error::Io(_) | sqlx::Error::PoolClosed => "unavailable",
            // OpenTelemetry's word for all others.
            _ => "_OTHER",
        }),
    }
}

/// A statement whose text was read.
pub(super) struct TracedQuery {
    sql: SqlStr,
    statement: Option<PgStatement>,
    arguments: Result<Option<PgArguments>, BoxDynError>,
    is_persistent: bool,
}

impl TracedQuery {
    /// Describes a statement in a span. sqlx gives the text only to who runs the statement, so this is a copy of it.
    pub(super) fn describe<'q>(mut query: impl Execute<'q, Postgres>, span: &mut OpenSpan) -> Self {
        let (arguments, statement) = (query.take_arguments(), query.statement().cloned());
        let is_persistent = query.persistent();
        let sql = query.sql();
        span.describe_query(sql.as_str());
        Self { sql, statement, arguments, is_persistent }
    }
}

impl Execute<'_, Postgres> for TracedQuery {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.statement.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        std::mem::replace(&mut self.arguments, Ok(None))
    }

    fn persistent(&self) -> bool {
        self.is_persistent
    }
}
