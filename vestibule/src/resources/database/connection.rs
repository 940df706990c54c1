//! Connections that carry their permit, and a database that runs single statements.

use super::Database;
use futures_util::{TryStreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    pool::PoolConnection,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use std::ops::{Deref, DerefMut};
use tokio::sync::OwnedSemaphorePermit;

/// A connection of the pool; dropping it gives it back. Use it as `&mut *connection`.
pub struct Connection {
    // In this order: the connection goes back before the permit is free.
    connection: PoolConnection<Postgres>,
    permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(connection: PoolConnection<Postgres>, permit: OwnedSemaphorePermit) -> Self {
        Self { connection, permit }
    }

    pub(super) async fn begin(self) -> Result<Transaction, sqlx::Error> {
        Ok(Transaction { transaction: sqlx::Transaction::begin(self.connection, None).await?, _permit: self.permit })
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// A transaction; dropping it rolls back. Use it as `&mut *transaction`.
pub struct Transaction {
    transaction: sqlx::Transaction<'static, Postgres>,
    _permit: OwnedSemaphorePermit,
}

impl Transaction {
    /// Makes its changes last.
    ///
    /// # Errors
    /// What the database says.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.transaction.commit().await
    }

    /// Undoes its changes.
    ///
    /// # Errors
    /// What the database says.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.transaction.rollback().await
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

impl<'p> Executor<'p> for &'_ Database {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let database = self.clone();
        Box::pin(async_stream::try_stream! {
            let mut connection = database.acquire().await?;
            let mut rows = (&mut *connection).fetch_many(query);
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
            let mut connection = database.acquire().await?;
            (&mut *connection).fetch_optional(query).await
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
            let mut connection = database.acquire().await?;
            (&mut *connection).prepare_with(sql, parameters).await
        })
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        let database = self.clone();
        Box::pin(async move {
            let mut connection = database.acquire().await?;
            (&mut *connection).describe(sql).await
        })
    }
}
