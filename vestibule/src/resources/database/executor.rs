//! Statements on a database, `sqlx::query(…).fetch_one(&database)`, and on a session.

use super::{
    Database,
    connection::Session,
    lease::Lease,
    traced::{self, TracedQuery},
};
use crate::traces::ChildKind;
use futures_util::{Stream, TryStreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

/// Each statement acquires a connection of its own, and gives it back at the end.
impl<'p> Executor<'p> for &'_ Database {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let database = self.clone();
        Box::pin(async_stream::try_stream! {
            let mut lease = database.lease().await?;
            let mut rows = std::pin::pin!(fetch_many(&mut lease, query));
            while let Some(row) = rows.try_next().await? {
                yield row;
            }
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let database = self.clone();
        Box::pin(async move {
            let mut lease = database.lease().await?;
            fetch_optional(&mut lease, query).await
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        let database = self.clone();
        Box::pin(async move {
            let mut lease = database.lease().await?;
            prepare(&mut lease, sql, parameters).await
        })
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        let database = self.clone();
        Box::pin(async move {
            let mut lease = database.lease().await?;
            describe(&mut lease, sql).await
        })
    }
}

impl<'c> Executor<'c> for &'c mut Session {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(fetch_many(&mut self.0, query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(fetch_optional(&mut self.0, query))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(prepare(&mut self.0, sql, parameters))
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(describe(&mut self.0, sql))
    }
}

/// Has the server prepare a statement. It may wait for a lock, so a caller that goes away leaves the connection busy.
async fn prepare(lease: &mut Lease, sql: SqlStr, parameters: &[PgTypeInfo]) -> Result<PgStatement, sqlx::Error> {
    let connection = lease.connection();
    connection.begin_statement();
    let prepared = connection.pg.prepare_with(sql, parameters).await;
    connection.record(prepared)
}

/// Does the same for a description.
async fn describe(lease: &mut Lease, sql: SqlStr) -> Result<Describe<Postgres>, sqlx::Error> {
    let connection = lease.connection();
    connection.begin_statement();
    let described = connection.pg.describe(sql).await;
    connection.record(described)
}

/// Runs a statement. A stream that is dropped before its end leaves the connection busy.
fn fetch_many<'e, 'q: 'e, E: 'q + Execute<'q, Postgres>>(
    lease: &'e mut Lease,
    query: E,
) -> impl Stream<Item = Result<Either<PgQueryResult, PgRow>, sqlx::Error>> + Send + 'e {
    async_stream::try_stream! {
        let connection = lease.connection();
        connection.begin_statement();
        let (mut rows, span) = match traced::begin(&connection.login, ChildKind::Call) {
            None => ((&mut connection.pg).fetch_many(query), None),
            Some(mut span) => {
                let query = TracedQuery::describe(query, &mut span);
                ((&mut connection.pg).fetch_many(query), Some(span))
            }
        };
        let end = loop {
            match rows.try_next().await {
                Ok(Some(row)) => yield row,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(rows);
        traced::end(span, &end);
        connection.record(end)?;
    }
}

async fn fetch_optional<'q, E: 'q + Execute<'q, Postgres>>(
    lease: &mut Lease,
    query: E,
) -> Result<Option<PgRow>, sqlx::Error> {
    let connection = lease.connection();
    connection.begin_statement();
    let Some(mut span) = traced::begin(&connection.login, ChildKind::Call) else {
        let row = (&mut connection.pg).fetch_optional(query).await;
        return connection.record(row);
    };
    let query = TracedQuery::describe(query, &mut span);
    let row = (&mut connection.pg).fetch_optional(query).await;
    traced::end(Some(span), &row);
    connection.record(row)
}
