//! The pool of one version of a login: its connections, its attempts to log in, and its end.

use super::{LoginRejected, error};
use crate::{
    reload_requests::ReloadRequests,
    resources::{
        breaker::{Attempt, Breaker, ProbeReason},
        rejection::Rejection,
    },
};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::{PoolConnection, PoolConnectionMetadata},
};
use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

/// The longest idle time after which a connection is handed out unchecked. A check of each connection costs a quarter of
/// a database route. HikariCP's `aliveBypassWindow` is as long.
const MAX_UNCHECKED_IDLE: Duration = Duration::from_millis(500);

/// The timeout of a check. It is short, because several idle connections may be dead, and a request checks them one after
/// the other.
const PING_TIMEOUT: Duration = Duration::from_millis(300);

/// The number of logins that run at a time. No more than this many are rejected before the breaker opens.
pub(super) const CONCURRENT_LOGINS: usize = 2;

/// The interval at which the pool is checked for a connection that came back or was closed.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The longest wait for connections that are still in use, when a pool is closed.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pool of one version of one login, and the limits that it shares with other versions.
pub(crate) struct Pooled {
    /// The rejection to report, without its reason.
    pub(super) rejection: Rejection,
    pub(super) pool: PgPool,
    /// The permits for connections in use, over all generations of this database.
    pub(super) permits: Arc<Semaphore>,
    /// The permits for logins at a time.
    pub(super) logins: Arc<Semaphore>,
    /// The number of callers that expect an idle connection.
    pub(super) claims: AtomicUsize,
    pub(super) max_connections: u32,
    pub(super) acquire_timeout: Duration,
    /// `true` once a generation with this pool is in service. Until then a rejected login requests no reload, because the
    /// load that built this pool is still under way.
    pub(super) in_service: AtomicBool,
    pub(super) retired: Arc<AtomicBool>,
    /// The pool that took the place of this one.
    pub(super) successor: watch::Sender<Option<Arc<Self>>>,
    pub(super) breaker: Arc<Breaker>,
    pub(super) reload_requests: Arc<ReloadRequests>,
}

tokio::task_local! {
    /// The login of the `acquire` that runs sqlx's hooks.
    pub(super) static LOGIN: LoginOfCaller;
}

/// The link between sqlx's hooks and the caller that they run for.
pub(super) struct LoginOfCaller {
    permit: RefCell<Option<OwnedSemaphorePermit>>,
    /// `true` if sqlx opened a connection.
    pub(super) logged_in: Cell<bool>,
}

impl LoginOfCaller {
    fn new(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { permit: RefCell::new(permit), logged_in: Cell::new(false) }
    }
}

/// The reason why there is no connection.
#[derive(thiserror::Error, Debug)]
#[error(transparent)]
pub(super) enum ConnectError {
    Rejected(#[from] Rejection),
    Failed(#[from] sqlx::Error),
}

impl From<AcquireError> for ConnectError {
    fn from(_: AcquireError) -> Self {
        Self::Failed(sqlx::Error::PoolClosed)
    }
}

/// A connection, and the permit to use it.
pub(super) type PermittedConnection = (PoolConnection<Postgres>, OwnedSemaphorePermit);

impl Pooled {
    /// Returns a connection that is already open, or opens one. Opens none while the login is rejected.
    pub(super) async fn connect(&self) -> Result<PermittedConnection, ConnectError> {
        let permit = self.permits.clone().acquire_owned().await?;
        let mut rejections = self.breaker.watch();
        let claim = Claim::on(&self.claims, self.idle_connections());
        let login_permit = if claim.is_some() {
            // The idle connection may turn out to be dead. Then sqlx logs in again.
            if let Some(rejection) = self.breaker.rejection() {
                return Err(rejection.into());
            }
            None
        } else {
            let login_permit = tokio::select! {
                biased;
                login_permit = self.logins.clone().acquire_owned() => login_permit?,
                connection = self.returned_connection() => return Ok((connection, permit)),
            };
            Some(login_permit)
        };
        let attempt = self.breaker.allow(ProbeReason::Scheduled, Instant::now())?;
        // Keeps the login permit until the breaker is open after a rejection, so that the next caller does not log in too.
        let connected = tokio::select! {
            biased;
            rejection = rejections.next() => return Err(rejection.into()),
            connected = LOGIN.scope(LoginOfCaller::new(login_permit), self.acquire(attempt)) => connected,
        };
        Ok((connected?, permit))
    }

    /// Returns the number of idle connections. sqlx counts them a moment late, and for that moment below zero.
    fn idle_connections(&self) -> usize {
        let idle = self.pool.num_idle();
        if idle <= self.max_connections as usize { idle } else { 0 }
    }

    async fn acquire(&self, attempt: Attempt) -> Result<PoolConnection<Postgres>, ConnectError> {
        match self.pool.acquire().await {
            Ok(connection) => {
                if LOGIN.with(|login| login.logged_in.get()) {
                    attempt.accepted();
                }
                Ok(connection)
            }
            Err(error) if error::is_rejected(&error) => Err(self.rejected(attempt, &error).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the breaker, and requests a reload that looks for another version.
    fn rejected(&self, attempt: Attempt, error: &sqlx::Error) -> Rejection {
        let rejection = self.rejection_for(error);
        let is_first = attempt.rejected(rejection.clone(), Instant::now());
        // A rotation makes the database reject the old version, so that is no news once there is a successor.
        let newly = is_first && self.successor.borrow().is_none();
        if newly {
            tracing::warn!(
                credential = rejection.credential,
                credential.version = %rejection.version,
                reason = rejection.reason,
                "the database rejects the login"
            );
        }
        if self.in_service.load(Ordering::Acquire) {
            self.reload_requests.request_for_rejected_login(newly);
        }
        rejection
    }

    fn rejection_for(&self, error: &sqlx::Error) -> Rejection {
        Rejection { reason: error::reason(error), ..self.rejection.clone() }
    }

    /// Tries a rejected login again, if the breaker allows it.
    pub(super) async fn probe(&self, reason: ProbeReason, until: Instant) {
        if self.breaker.rejection().is_none() {
            return;
        }
        let Ok(Ok(_login_permit)) = tokio::time::timeout_at(until, self.logins.acquire()).await else { return };
        let Ok(attempt) = self.breaker.allow(reason, Instant::now()) else { return };
        let options = self.pool.connect_options();
        match tokio::time::timeout_at(until, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => {
                attempt.accepted();
                let _ = tokio::time::timeout_at(until, connection.close()).await;
            }
            Ok(Err(error)) if error::is_rejected(&error) => {
                attempt.rejected(self.rejection_for(&error), Instant::now());
            }
            // Dropped, and so inconclusive.
            _ => (),
        }
    }

    pub(super) fn login_rejected(&self, rejection: Rejection) -> LoginRejected {
        LoginRejected { rejection, retry_after: self.breaker.time_to_next_probe(Instant::now()) }
    }

    /// Returns `true` if a caller whose login is rejected fails at once. While the rejection is younger than
    /// `database.acquire_timeout`, a rotation may be under way, and the caller waits for the successor. A caller also waits
    /// while a connection is open, because that may come back.
    pub(super) fn fails_fast(&self) -> bool {
        let rejected_for = self.breaker.rejected_for(Instant::now());
        rejected_for.is_some_and(|time| time >= self.acquire_timeout) && self.pool.size() == 0
    }

    /// Closes one connection as soon as one is idle. Returns its permit, which keeps others from opening one in its
    /// place.
    pub(super) async fn close_one(&self) -> Option<OwnedSemaphorePermit> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        while self.pool.size() > 0 {
            if let Some(connection) = self.pool.try_acquire() {
                // If closing fails, the connection is gone as well.
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
                break;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Some(permit)
    }

    /// Waits for a connection that comes back. The caller has a permit already. sqlx itself waits for a returned
    /// connection only if it may also open one.
    async fn returned_connection(&self) -> PoolConnection<Postgres> {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            if let Some(connection) = self.try_idle().await {
                return connection;
            }
        }
    }

    /// Waits for a connection that is already open, and for a permit to use it.
    pub(super) async fn idle_connection(&self) -> PermittedConnection {
        loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned()
                && let Some(connection) = self.try_idle().await
            {
                return (connection, permit);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns an idle connection, if there is one and it answers.
    async fn try_idle(&self) -> Option<PoolConnection<Postgres>> {
        let mut connection = self.pool.try_acquire()?;
        if answers(&mut connection).await { Some(connection) } else { None }
    }

    /// Waits for a successor, and returns it.
    pub(super) async fn successor(&self) -> Arc<Self> {
        let mut receiver = self.successor.subscribe();
        let successor = match receiver.wait_for(Option::is_some).await {
            Ok(successor) => successor.clone(),
            Err(_) => None,
        };
        match successor {
            Some(successor) => successor,
            None => std::future::pending().await,
        }
    }

    /// Closes idle connections now, and busy ones when they come back.
    ///
    /// `Pool::close` would fail the requests that still hold this generation. Each idle connection keeps a permit until
    /// it is closed, so that the successor cannot open another one beside it. A connection that has just come back
    /// becomes idle a moment later, so the pool is checked for 5 s.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        // Without a runtime nothing can be closed, and sqlx would panic.
        let Ok(runtime) = Handle::try_current() else { return };
        let idle: Vec<_> = std::iter::from_fn(|| self.pool.try_acquire())
            .map(|connection| (connection, self.permits.clone().try_acquire_owned().ok()))
            .collect();
        let (pool, end) = (self.pool.clone(), Instant::now() + CLOSE_TIMEOUT);
        runtime.spawn(async move {
            for (connection, permit) in idle {
                // If closing fails, the connection is gone as well.
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
                drop(permit);
            }
            while pool.size() > 0 && Instant::now() < end {
                while let Some(connection) = pool.try_acquire() {
                    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        });
    }
}

/// Closes the connections of a pool that nobody holds any more: its generation has gone, or its load failed.
impl Drop for Pooled {
    fn drop(&mut self) {
        self.retire();
    }
}

/// A caller's claim on one of the idle connections. A caller without one needs a login.
struct Claim<'a>(&'a AtomicUsize);

impl<'a> Claim<'a> {
    /// Returns a claim, if there are fewer claims than idle connections.
    fn on(claims: &'a AtomicUsize, idle: usize) -> Option<Self> {
        let claim = Self(claims);
        let others = claims.fetch_add(1, Ordering::AcqRel);
        if others < idle { Some(claim) } else { None }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Returns `true` if the server answers on this connection in time.
async fn answers(connection: &mut PgConnection) -> bool {
    matches!(tokio::time::timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(())))
}

/// Returns `true` if an idle connection can be used. In place of a dead connection, sqlx opens another one within the
/// same `acquire`. That is a login like any other, so it waits for a login permit.
pub(super) async fn is_usable(
    connection: &mut PgConnection,
    meta: PoolConnectionMetadata,
    logins: Arc<Semaphore>,
) -> Result<bool, sqlx::Error> {
    if meta.idle_for < MAX_UNCHECKED_IDLE || answers(connection).await {
        return Ok(true);
    }
    if LOGIN.with(|login| login.permit.borrow().is_none()) {
        let acquired = logins.acquire_owned().await.ok();
        LOGIN.with(|login| *login.permit.borrow_mut() = acquired);
    }
    Ok(false)
}
