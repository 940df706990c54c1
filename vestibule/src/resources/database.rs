//! PostgreSQL, through one pool per place.
//!
//! ```text
//! open: proof (one log-in, one look at the schema) ─► publish: the pool logs in with this version from now on
//!                         └── the connection that proved it is the pool's first of this version
//! ```
//!
//! sqlx's own pool cannot change its login, and the `Debug` of its options prints the password. So connections are sqlx's,
//! and the pool is ours: `pool.rs` has the whole life of a connection.

mod addresses;
mod connection;
mod error;
mod executor;
mod inlet;
mod lease;
mod log_in;
mod login;
mod pool;
mod proof;
mod raw_log_in;
mod section;
mod traced;

#[cfg(test)]
mod tests;

use super::{
    breaker::ProbeReason, build_error::BuildError, circuit_breaker::CircuitBreaker,
    connection_counter::ConnectionCounter, context::LoadContext, rejection::Rejection, resource::Resource,
};
use crate::{backoff::Backoff, credentials::login::Login, secrets::credential::Credential};
pub use connection::{Connection, Session, Transaction};
pub(super) use error::remedy_of_rules;
pub(crate) use error::{fault, reason, sqlstate, transient, unanswered};
use lease::Lease;
pub(crate) use log_in::LogInOptions;
pub(crate) use login::DatabaseUnavailable;
use login::PoolLogin;
use pool::Pool;
pub(crate) use proof::{ConnectError, connect};
pub(crate) use section::{DatabaseSection, DatabaseSections};
use std::{fmt, sync::Arc};
use tokio::time::{Instant, timeout_at};

/// A handle to the database. Clones, and the handles of all generations, share one pool while the place is the same: host,
/// port and database.
///
/// It runs single statements itself. [`acquire`](Self::acquire) and [`begin`](Self::begin) return a connection for
/// several statements.
///
/// ```
/// use vestibule::{Database, sqlx};
///
/// async fn title(database: &Database, id: i64) -> Result<Option<String>, sqlx::Error> {
///     sqlx::query_scalar("SELECT title FROM books WHERE id = $1").bind(id).fetch_optional(database).await
/// }
/// ```
#[derive(Clone)]
pub struct Database(Arc<DatabaseHandle>);

/// The pool, and the login that this handle was built with.
struct DatabaseHandle {
    pool: Arc<Pool>,
    login: Arc<PoolLogin>,
}

impl Database {
    /// Proves the login. `predecessor` is the database in service: its pool goes on if the place is the same. If only the
    /// limits differ, its log-ins were the proof: a reload that changes them does not wait for the database.
    pub(crate) async fn open(
        login: &Credential<Login>,
        section: DatabaseSection<'_>,
        predecessor: Option<&Self>,
        context: &LoadContext<'_>,
    ) -> Result<Self, BuildError> {
        let login = Arc::new(PoolLogin::new(login, section, context).await.map_err(BuildError::Fault)?);
        let pool = match predecessor {
            Some(Self(before)) if before.login.place() == login.place() => before.pool.clone(),
            _ => Pool::new(login.clone()),
        };
        let is_proven = predecessor.is_some_and(|Self(before)| login.is_proven_by(&before.login));
        let handle = DatabaseHandle { pool, login };
        if is_proven {
            return Ok(Self(Arc::new(handle)));
        }
        // The connection goes back to the pool, which keeps it for this login.
        drop(proof::prove(&handle.pool, &handle.login, section, context).await?);
        Ok(Self(Arc::new(handle)))
    }

    /// Returns a connection of the pool.
    ///
    /// If the database rejects the login, the pool requests a reload, which looks for another version. This call waits for
    /// a connection of that version, so its caller only sees a slow call. It fails at once if no log-in has succeeded for
    /// longer than `database.acquire_timeout` and no connection is open.
    ///
    /// # Errors
    /// `PoolTimedOut` after `database.acquire_timeout`. `Io` if no log-in succeeds.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        Ok(Connection::new(self.lease().await?))
    }

    async fn lease(&self) -> Result<Lease, sqlx::Error> {
        self.0.pool.acquire(&self.0.login).await
    }

    /// Begins a transaction on a connection of the pool.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire). The database's error if the transaction cannot begin.
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        self.acquire().await?.begin().await
    }

    /// Runs `work` in a transaction, and commits it. If the database ends the transaction because of another one (a
    /// serialization failure or a deadlock), runs `work` again, in a new transaction after a short pause. If `work` fails
    /// with any other error, rolls back and returns it.
    ///
    /// So `work` must do nothing twice that its transaction cannot take back: call other services afterwards. No run
    /// begins later than `database.acquire_timeout` after the call.
    ///
    /// # Errors
    /// The error of the last run. As [`begin`](Self::begin), and the database's error if the commit fails.
    ///
    /// ```
    /// use axum::{Router, extract::State, routing::post};
    /// use vestibule::{Database, Problem, sqlx};
    ///
    /// async fn move_one(State(database): State<Database>) -> Result<(), Problem> {
    ///     database
    ///         .retry_transaction(async |session| {
    ///             sqlx::query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").execute(&mut *session).await?;
    ///             sqlx::query("UPDATE accounts SET balance = balance - 1 WHERE id = 1").execute(&mut *session).await?;
    ///             sqlx::query("UPDATE accounts SET balance = balance + 1 WHERE id = 2").execute(&mut *session).await?;
    ///             Ok(())
    ///         })
    ///         .await
    /// }
    ///
    /// fn routes() -> Router<Database> {
    ///     Router::new().route("/moves", post(move_one))
    /// }
    /// ```
    pub async fn retry_transaction<T, E: From<sqlx::Error>>(
        &self,
        mut work: impl AsyncFnMut(&mut Session) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut pauses = Backoff::until(Instant::now() + self.0.login.limits.acquire_timeout);
        loop {
            let (done, has_conflict) = self.begin().await?.run_and_commit(&mut work).await;
            if !has_conflict || !pauses.wait().await {
                return done;
            }
        }
    }
}

impl Resource for Database {
    fn publish(&self) {
        self.0.pool.publish(&self.0.login);
    }

    fn circuit_breaker(&self) -> Option<&CircuitBreaker> {
        Some(&self.0.login.breaker)
    }

    /// Returns nothing while a token is rejected: no load can find another one, and the pool signs one for each try.
    fn rejection(&self) -> Option<Rejection> {
        let PoolLogin { options, breaker, .. } = &*self.0.login;
        if options.has_tokens() { None } else { breaker.rejection() }
    }

    async fn probe(&self, reason: ProbeReason, deadline: Instant) {
        // A log-in has a limit of its own. This is for one that waits for its turn.
        let _ = timeout_at(deadline, self.0.pool.probe(&self.0.login, reason)).await;
    }

    fn retire(&self, successor: Option<&Self>) {
        let goes_on = successor.is_some_and(|Self(next)| Arc::ptr_eq(&next.pool, &self.0.pool));
        if !goes_on {
            self.0.pool.retire();
        }
    }

    fn connections(&self) -> Option<ConnectionCounter> {
        Some(self.0.login.connections.clone())
    }

    async fn close(&self) {
        self.0.pool.close().await;
    }
}

/// Closes the connections of a login that was proven and never published: the load failed.
impl Drop for DatabaseHandle {
    fn drop(&mut self) {
        if !self.login.was_published() {
            self.pool.discard(&self.login);
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.0.login.breaker).finish()
    }
}
