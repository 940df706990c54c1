//! Connections and transactions that a service uses. Each holds a permit of its database.

use super::pooled::{CLOSE_TIMEOUT, POLL_INTERVAL, Pooled};
use sqlx::{PgConnection, Postgres, pool::PoolConnection};
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering},
};
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit, time::Instant};

/// A connection to the database. Use it as `&mut *connection`. Dropping it gives it back to the pool.
///
/// ```
/// use vestibule::{Database, sqlx};
///
/// /// Takes a lock and works under it: both statements must use the same connection.
/// async fn vacuum(database: &Database) -> Result<(), sqlx::Error> {
///     let mut connection = database.acquire().await?;
///     sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut *connection).await?;
///     let vacuumed = sqlx::query("VACUUM books").execute(&mut *connection).await;
///     sqlx::query("SELECT pg_advisory_unlock(7)").execute(&mut *connection).await?;
///     vacuumed.map(|_| ())
/// }
/// ```
pub struct Connection {
    // The fields are dropped from top to bottom. The guard is dropped first, because it reads the size of the pool while
    // the connection still belongs to it.
    guard: ConnectionGuard,
    connection: PoolConnection<Postgres>,
}

impl Connection {
    pub(super) fn new(connection: PoolConnection<Postgres>, permit: OwnedSemaphorePermit, pooled: Arc<Pooled>) -> Self {
        Self { guard: ConnectionGuard { permit: Some(permit), pooled }, connection }
    }

    pub(super) async fn begin(self) -> Result<Transaction, sqlx::Error> {
        Ok(Transaction { _guard: self.guard, transaction: sqlx::Transaction::begin(self.connection, None).await? })
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

/// A transaction. Use it as `&mut *transaction`. Dropping it rolls it back.
///
/// ```
/// use vestibule::{Database, sqlx};
///
/// async fn rename(database: &Database, id: i64, title: &str) -> Result<(), sqlx::Error> {
///     let mut transaction = database.begin().await?;
///     sqlx::query("UPDATE books SET title = $2 WHERE id = $1").bind(id).bind(title).execute(&mut *transaction).await?;
///     sqlx::query("INSERT INTO renames (book) VALUES ($1)").bind(id).execute(&mut *transaction).await?;
///     transaction.commit().await
/// }
/// ```
pub struct Transaction {
    _guard: ConnectionGuard,
    transaction: sqlx::Transaction<'static, Postgres>,
}

impl Transaction {
    /// Commits the transaction.
    ///
    /// # Errors
    /// The database's error.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.transaction.commit().await
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// The database's error.
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

/// The permit to use one connection.
///
/// sqlx closes a connection of a retired pool only after it was given back. Until it is closed, the guard keeps the
/// permit, so that the successor does not open another connection beside it.
struct ConnectionGuard {
    permit: Option<OwnedSemaphorePermit>,
    pooled: Arc<Pooled>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.pooled.retired.load(Ordering::Acquire) {
            return;
        }
        let (permit, pool) = (self.permit.take(), self.pooled.pool.clone());
        let (size, start) = (pool.size(), Instant::now());
        runtime.spawn(async move {
            while pool.size() >= size && start.elapsed() < CLOSE_TIMEOUT {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            drop(permit);
        });
    }
}
