//! Connections that carry their permit, and a database that runs single statements.

use super::{
    Database,
    pooled::{CLOSING, LOOK_AGAIN, Pooled},
};
use futures_util::{TryStreamExt, future::BoxFuture, stream::BoxStream};
use sqlx::{
    Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    pool::PoolConnection,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering},
};
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit, time::Instant};

/// A connection of the pool; dropping it gives it back. Use it as `&mut *connection`.
pub struct Connection {
    // In this order: the pass looks at the pool before the connection goes back.
    pass: Pass,
    connection: PoolConnection<Postgres>,
}

impl Connection {
    pub(super) fn new(connection: PoolConnection<Postgres>, pass: Pass) -> Self {
        Self { pass, connection }
    }

    pub(super) async fn begin(self) -> Result<Transaction, sqlx::Error> {
        Ok(Transaction { _pass: self.pass, transaction: sqlx::Transaction::begin(self.connection, None).await? })
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
    _pass: Pass,
    transaction: sqlx::Transaction<'static, Postgres>,
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

/// The right to use one connection. sqlx closes a connection of a retired pool after it was given back; until then the
/// successor must not open another one in its place.
pub(super) struct Pass {
    permit: Option<OwnedSemaphorePermit>,
    pooled: Arc<Pooled>,
}

impl Pass {
    pub(super) fn new(permit: OwnedSemaphorePermit, pooled: Arc<Pooled>) -> Self {
        Self { permit: Some(permit), pooled }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.pooled.retired.load(Ordering::Acquire) {
            return;
        }
        let (permit, pool) = (self.permit.take(), self.pooled.pool.clone());
        let (size, start) = (pool.size(), Instant::now());
        runtime.spawn(async move {
            while pool.size() >= size && start.elapsed() < CLOSING {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            drop(permit);
        });
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
