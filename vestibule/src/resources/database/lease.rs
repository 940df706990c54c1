//! A lease: one place in a pool, and the connection in it. Dropping it gives the connection back.

use super::{error::Damage, login::PoolLogin, pool::Pool};
use crate::jitter;
use sqlx::{Connection as _, PgConnection};
use std::{sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

/// The timeout of a check. It is short, because several idle connections may be dead, and a request checks them one after
/// the other.
const PING_TIMEOUT: Duration = Duration::from_millis(300);

/// The longest wait until a connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An open connection, and the login that it was made with.
pub(super) struct PooledConnection {
    pub(super) pg: PgConnection,
    pub(super) login: Arc<PoolLogin>,
    pub(super) opened_at: Instant,
    /// The end of its maximum age.
    pub(super) expires_at: Instant,
    pub(super) idle_since: Instant,
    /// `true` while a statement runs. If it is `true` at the end, the statement was abandoned.
    pub(super) is_busy: bool,
    pub(super) has_transaction: bool,
    pub(super) damage: Option<Damage>,
}

impl PooledConnection {
    /// Records an error of a statement.
    pub(super) fn record<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.is_busy = false;
        if let Err(error) = &result
            && let Some(damage) = Damage::of(error)
        {
            self.damage = Some(damage);
        }
        result
    }

    /// Rolls back what was left open, and waits for the end of a statement that was abandoned. The server ends that by
    /// `database.statement_timeout`.
    async fn tidy(&mut self) -> bool {
        let limit = self.login.limits.statement_timeout + CLOSE_TIMEOUT;
        let has_transaction = self.has_transaction;
        (self.is_busy, self.has_transaction) = (false, false);
        let tidied = timeout(limit, async {
            self.pg.ping().await?;
            if has_transaction {
                sqlx::raw_sql("ROLLBACK").execute(&mut self.pg).await?;
            }
            Ok::<_, sqlx::Error>(())
        });
        matches!(tidied.await, Ok(Ok(())))
    }
}

/// A place in a pool, and the connection in it, if there is one.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Option<PooledConnection>,
    /// `false` if the place has passed on to somebody else.
    has_place: bool,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, connection: PooledConnection) -> Self {
        Self { pool, connection: Some(connection), has_place: true }
    }

    pub(super) fn empty(pool: Arc<Pool>) -> Self {
        Self { pool, connection: None, has_place: true }
    }

    /// Puts a connection that was just opened into the place.
    pub(super) fn connect(&mut self, pg: PgConnection, login: Arc<PoolLogin>) {
        let now = Instant::now();
        let age = login.limits.max_lifetime.mul_f64(jitter::factor(0.1));
        login.connection_opened();
        self.connection = Some(PooledConnection {
            pg,
            login,
            opened_at: now,
            expires_at: now + age,
            idle_since: now,
            is_busy: false,
            has_transaction: false,
            damage: None,
        });
    }

    pub(super) fn connection(&mut self) -> &mut PooledConnection {
        self.connection.as_mut().expect("only an empty place has none, and nobody uses that")
    }

    pub(super) fn pg(&mut self) -> &mut PgConnection {
        &mut self.connection().pg
    }

    /// Returns `true` if the server answers in time. Otherwise the connection is gone.
    pub(super) async fn answers(&mut self) -> bool {
        let answered = timeout(PING_TIMEOUT, self.pg().ping()).await;
        if matches!(answered, Ok(Ok(()))) {
            return true;
        }
        self.forget();
        false
    }

    /// Drops the connection without a word to the server, which does not answer.
    fn forget(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.login.connection_closed();
        }
    }

    /// Closes the connection, and keeps its place.
    pub(super) async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.login.connection_closed();
            // If closing fails, the connection is gone as well.
            let _ = timeout(CLOSE_TIMEOUT, connection.pg.close()).await;
        }
    }

    pub(super) async fn close(mut self) {
        self.disconnect().await;
    }

    /// Returns the connection. Its place goes with it.
    pub(super) fn into_connection(mut self) -> PooledConnection {
        self.has_place = false;
        self.connection.take().expect("a lease that was handed out has a connection")
    }

    /// Rolls back and waits for an abandoned statement, or closes the connection.
    async fn tidy(mut self) {
        let is_clean = match &mut self.connection {
            Some(connection) => connection.damage.is_none() && connection.tidy().await,
            None => false,
        };
        if !is_clean {
            self.disconnect().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.has_place {
            return;
        }
        let Some(connection) = self.connection.take() else {
            self.pool.free_place();
            return;
        };
        if let Some(damage) = connection.damage {
            damage.tell(&self.pool, &connection.login);
        }
        if !connection.is_busy && !connection.has_transaction && connection.damage.is_none() {
            self.pool.put_back(PooledConnection { idle_since: Instant::now(), ..connection });
            return;
        }
        let lease = Self::new(self.pool.clone(), connection);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(lease.tidy())),
            Err(_) => drop(lease.into_connection()),
        }
    }
}
