//! Connections and transactions that a service uses.

use super::{lease::Lease, traced};
use sqlx::AssertSqlSafe;
use std::{
    fmt,
    ops::{Deref, DerefMut},
    time::Duration,
};

/// PostgreSQL's longest statement timeout: 24 days.
const LONGEST_STATEMENT_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// A session at the database: what a [`Connection`] and a [`Transaction`] run statements on, as `&mut *connection`.
///
/// The pool sees the errors of its statements. So it does not use a connection again that is broken, or whose prepared
/// statements no longer fit the schema.
pub struct Session(pub(super) Lease);

/// A connection to the database. Use it as `&mut *connection`. Dropping it gives it back to the pool.
///
/// Do not run `BEGIN` on it: use [`Database::begin`](super::Database::begin). The pool cannot see a transaction that a
/// statement began, because sqlx does not show it. It would not roll it back, and the next user would work inside of it.
/// The same holds for `SET` and for advisory locks: take them back before you drop the connection.
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
pub struct Connection(Session);

impl Connection {
    pub(super) fn new(lease: Lease) -> Self {
        Self(Session(lease))
    }

    pub(super) async fn begin(mut self) -> Result<Transaction, sqlx::Error> {
        self.0.0.connection().begin_transaction();
        self.0.run("BEGIN".into()).await?;
        Ok(Transaction(self.0))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    async fn run(&mut self, sql: String) -> Result<(), sqlx::Error> {
        let connection = self.0.connection();
        connection.begin_statement();
        let span = traced::begin_statement(&connection.login, &sql);
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection.pg).await.map(drop);
        traced::end(span, &done);
        connection.record(done)
    }
}

impl Deref for Connection {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}

/// A transaction. Use it as `&mut *transaction`. Dropping it rolls it back. A savepoint is a statement: `SAVEPOINT a`, and
/// `ROLLBACK TO a`.
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
pub struct Transaction(Session);

impl Transaction {
    /// Sets the longest time of each further statement of this transaction, in place of `database.statement_timeout`. For
    /// background work, which may take longer than a request.
    ///
    /// # Errors
    /// The database's error.
    pub async fn set_statement_timeout(&mut self, timeout: Duration) -> Result<(), sqlx::Error> {
        let timeout = timeout.clamp(Duration::from_millis(1), LONGEST_STATEMENT_TIMEOUT);
        self.0.run(format!("SET LOCAL statement_timeout = {}", timeout.as_millis())).await?;
        let connection = self.0.0.connection();
        // A savepoint may bring a longer one back, so a shorter one counts for nothing.
        connection.transaction_timeout = connection.transaction_timeout.max(timeout);
        Ok(())
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// The database's error. A transaction in which a statement has failed cannot be committed, even if your code went on
    /// after that error, unless it has rolled back to a savepoint.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.end_with_commit().await
    }

    async fn end_with_commit(&mut self) -> Result<(), sqlx::Error> {
        // PostgreSQL rolls a failed transaction back at COMMIT, and answers as if it had committed.
        if self.0.0.connection().has_failed {
            self.0.run("SELECT 1".into()).await?;
        }
        self.end("COMMIT").await
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// The database's error.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.end("ROLLBACK").await
    }

    /// Runs `work` and commits. Returns the result, and `true` if the database ended the transaction because of another
    /// one.
    pub(super) async fn run_and_commit<T, E: From<sqlx::Error>>(
        mut self,
        work: &mut impl AsyncFnMut(&mut Session) -> Result<T, E>,
    ) -> (Result<T, E>, bool) {
        let done = match work(&mut self).await {
            Ok(value) => self.end_with_commit().await.map(|()| value).map_err(E::from),
            Err(error) => Err(error),
        };
        let has_conflict = done.is_err() && self.0.0.connection().has_conflict;
        (done, has_conflict)
    }

    async fn end(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        self.0.run(sql.into()).await?;
        self.0.0.connection().has_transaction = false;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}
