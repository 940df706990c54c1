//! A lease: one place in a pool, and the connection in it. Dropping it gives the connection back.

use super::{
    error::{Damage, is_conflict},
    login::PoolLogin,
    pool::Pool,
};
use crate::{jitter, resources::connection_counter::ConnectionGuard};
use sqlx::{Connection as _, PgConnection};
use std::{sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout, timeout_at},
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
    /// The longest time for which it may be idle.
    max_idle: Duration,
    /// The time by which the server ends the statement that runs. If there is one at the end, the statement was abandoned.
    busy_until: Option<Instant>,
    pub(super) has_transaction: bool,
    /// The longest time of a statement of the transaction.
    pub(super) transaction_timeout: Duration,
    /// `true` if a statement of the transaction has failed.
    pub(super) has_failed: bool,
    /// `true` if the transaction has lost a conflict with another one.
    pub(super) has_conflict: bool,
    pub(super) damage: Option<Damage>,
    guard: ConnectionGuard,
}

impl PooledConnection {
    /// Returns the end of its longest idle time.
    pub(super) fn idle_until(&self) -> Instant {
        self.idle_since + self.max_idle
    }

    /// Counts it as idle or as used.
    pub(super) fn set_idle(&mut self, is_idle: bool) {
        self.guard.set_idle(is_idle);
    }

    /// Records that a transaction begins. Its statements end by `database.statement_timeout` until it raises that.
    pub(super) fn begin_transaction(&mut self) {
        (self.has_transaction, self.has_failed, self.has_conflict) = (true, false, false);
        self.transaction_timeout = self.login.limits.statement_timeout;
    }

    /// Records that a statement begins, and when the server ends it.
    pub(super) fn begin_statement(&mut self) {
        let limit = self.login.limits.statement_timeout;
        let limit = if self.has_transaction { self.transaction_timeout } else { limit };
        self.busy_until = Some(Instant::now() + limit);
    }

    /// Records the end of a statement, and its error.
    pub(super) fn record<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.busy_until = None;
        if let Err(error) = &result {
            self.has_failed = true;
            self.has_conflict |= is_conflict(error);
            if let Some(damage) = Damage::of(error) {
                self.damage = Some(damage);
            }
        }
        result
    }

    /// Rolls back what was left open, and waits for the end of a statement that was abandoned.
    async fn tidy(&mut self) -> bool {
        let now = Instant::now();
        let until = self.busy_until.map_or(now, |end| end.max(now)) + CLOSE_TIMEOUT;
        let tidied = timeout_at(until, async {
            self.pg.ping().await?;
            if self.has_transaction {
                sqlx::raw_sql("ROLLBACK").execute(&mut self.pg).await?;
            }
            Ok::<_, sqlx::Error>(())
        });
        if !matches!(tidied.await, Ok(Ok(()))) {
            return false;
        }
        // Not before: if this is cut off, the connection is not clean.
        (self.busy_until, self.has_transaction) = (None, false);
        true
    }
}

/// A place in a pool, and the connection in it, if there is one.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    connection: Option<PooledConnection>,
    at_end: AtEnd,
    /// The permit of a load that uses a login before its publication. It ends when the connection is back.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// The end of a lease that is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    /// The connection goes back. A task tidies it before, if that is needed.
    GiveBack,
    /// The connection goes back if it is clean. A runtime that ends drops the task that tidies it.
    GiveBackIfClean,
    /// The connection is closed.
    Close,
    /// The place has passed on to somebody else.
    Nothing,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, mut connection: PooledConnection) -> Self {
        connection.guard.set_idle(false);
        Self { pool, connection: Some(connection), at_end: AtEnd::GiveBack, permit: None }
    }

    /// Makes a lease that closes its connection.
    pub(super) fn to_close(pool: Arc<Pool>, connection: PooledConnection) -> Self {
        Self { pool, connection: Some(connection), at_end: AtEnd::Close, permit: None }
    }

    pub(super) fn empty(pool: Arc<Pool>) -> Self {
        Self { pool, connection: None, at_end: AtEnd::GiveBack, permit: None }
    }

    /// Puts a connection that was just opened into the place.
    pub(super) fn connect(&mut self, pg: PgConnection, login: Arc<PoolLogin>) {
        let now = Instant::now();
        let jittered = |limit: Duration| limit.mul_f64(jitter::factor(0.1));
        self.connection = Some(PooledConnection {
            pg,
            guard: login.connections.open(),
            transaction_timeout: login.limits.statement_timeout,
            opened_at: now,
            expires_at: now + jittered(login.limits.max_lifetime),
            max_idle: jittered(login.limits.idle_timeout),
            login,
            idle_since: now,
            busy_until: None,
            has_transaction: false,
            has_failed: false,
            has_conflict: false,
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
        let until = Instant::now() + PING_TIMEOUT;
        // A caller that goes away during the check must not give an unchecked connection back.
        self.connection().busy_until = Some(until);
        let answered = timeout_at(until, self.pg().ping()).await;
        if matches!(answered, Ok(Ok(()))) {
            self.connection().busy_until = None;
            return true;
        }
        self.forget();
        false
    }

    /// Drops the connection without a word to the server, which does not answer.
    fn forget(&mut self) {
        self.connection = None;
    }

    /// Closes the connection, and keeps its place.
    pub(super) async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // If closing fails, the connection is gone as well.
            let _ = timeout(CLOSE_TIMEOUT, connection.pg.close()).await;
        }
    }

    pub(super) async fn close(mut self) {
        self.disconnect().await;
    }

    /// Returns the connection. Its place goes with it.
    pub(super) fn into_connection(mut self) -> PooledConnection {
        self.at_end = AtEnd::Nothing;
        self.connection.take().expect("a lease that was handed out has a connection")
    }

    /// Drops the connection, and frees its place.
    fn into_closed(mut self) {
        self.at_end = AtEnd::Close;
    }

    /// Rolls back and waits for an abandoned statement, or closes the connection.
    pub(super) async fn tidy(mut self) {
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
        if self.at_end == AtEnd::Nothing {
            return;
        }
        if self.at_end == AtEnd::Close {
            self.forget();
        }
        let Some(mut connection) = self.connection.take() else {
            self.pool.free_place();
            return;
        };
        if let Some(damage) = connection.damage
            && !damage.tell(&self.pool, &connection)
        {
            connection.damage = None;
        }
        if connection.busy_until.is_none() && !connection.has_transaction && connection.damage.is_none() {
            let now = Instant::now();
            connection.idle_since = now;
            self.pool.put_back(connection, now);
            return;
        }
        let at_end = if self.at_end == AtEnd::GiveBack { AtEnd::GiveBackIfClean } else { AtEnd::Close };
        let permit = self.permit.take();
        let lease = Self { pool: self.pool.clone(), connection: Some(connection), at_end, permit };
        match Handle::try_current() {
            Ok(runtime) if at_end == AtEnd::GiveBackIfClean => drop(runtime.spawn(lease.tidy())),
            _ => lease.into_closed(),
        }
    }
}
