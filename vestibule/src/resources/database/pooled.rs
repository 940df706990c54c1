//! A pool for one version of one login: who gets a connection, who may log in, and how it ends.

use super::{
    Database,
    connection::{Connection, Pass},
    proof,
};
use crate::{
    reload_requests::ReloadRequests,
    resources::{
        breaker::{Breaker, ProbeReason},
        rejection::Rejection,
    },
};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::{PoolConnection, PoolConnectionMetadata},
};
use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

/// A connection that sat idle for longer is checked before it is handed out; checking each costs a quarter of a
/// database route (HikariCP's `aliveBypassWindow` is as long).
const TRUSTED_IDLE: Duration = Duration::from_millis(500);

/// How many logins run at once, so that no more are refused before the version is closed for logins.
pub(super) const LOGINS: usize = 2;

/// How often a request that cannot log in looks for a connection that came back.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a request whose login is refused waits for a successor, or for a connection that is open already; longer
/// while a trip is under way that may bring one.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long stopping waits for connections that are still in use.
pub(super) const CLOSING: Duration = Duration::from_secs(5);

pub(super) struct Pooled {
    /// What a rejection says, but for the reason.
    pub(super) rejection: Rejection,
    pub(super) pool: PgPool,
    /// Connections that may be in use, over all generations of this database.
    pub(super) permits: Arc<Semaphore>,
    /// Logins that may run at once.
    pub(super) logins: Arc<Semaphore>,
    /// Callers that count on an idle connection.
    pub(super) claims: AtomicUsize,
    pub(super) max_connections: u32,
    pub(super) acquire_timeout: Duration,
    /// Whether a refused login is worth a trip: not while the trip that built this is under way.
    pub(super) in_service: AtomicBool,
    pub(super) retired: Arc<AtomicBool>,
    /// What took this one's place.
    pub(super) successor: watch::Sender<Option<Database>>,
    pub(super) breaker: Arc<Breaker>,
    pub(super) reload_requests: Arc<ReloadRequests>,
}

tokio::task_local! {
    /// The turn to log in of the acquire that runs sqlx's hooks.
    static TURN: RefCell<Option<OwnedSemaphorePermit>>;
}

/// Why there is no connection.
#[derive(thiserror::Error, Debug)]
#[error(transparent)]
pub(super) enum Unconnected {
    Rejected(#[from] Rejection),
    Failed(#[from] sqlx::Error),
}

impl Pooled {
    /// A connection that is open, or a new one unless the login is refused.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<Connection, Unconnected> {
        let closed = |_| sqlx::Error::PoolClosed;
        let permit = self.permits.clone().acquire_owned().await.map_err(closed)?;
        let mut rejections = self.breaker.watch();
        // sqlx counts idle connections a moment late, and for that moment below zero.
        let idle = Some(self.pool.num_idle()).filter(|idle| *idle <= self.max_connections as usize);
        let claim = Claim::on(&self.claims, idle.unwrap_or(0));
        let turn = match claim {
            // It may turn out to be dead.
            Some(_) => self.breaker.rejection().map_or(Ok(None), Err)?,
            None => {
                let turn = tokio::select! {
                    biased;
                    turn = self.logins.clone().acquire_owned() => turn.map_err(closed)?,
                    connection = self.returned() => {
                        return Ok(Connection::new(connection, Pass::new(permit, self.clone())));
                    }
                };
                self.breaker.allow(ProbeReason::Scheduled, Instant::now())?;
                Some(turn)
            }
        };
        let admitted = turn.is_some();
        let connecting = async {
            self.pool.acquire().await.map_err(|error| {
                if proof::is_rejected(&error) {
                    Unconnected::Rejected(self.rejected(&error))
                } else {
                    Unconnected::Failed(error)
                }
            })
        };
        // The turn is held until a rejection is known to whoever comes next.
        let connected = tokio::select! {
            biased;
            rejection = rejections.rejected() => return Err(rejection.into()),
            connected = TURN.scope(RefCell::new(turn), connecting) => connected,
        };
        // Only who was admitted may have used up a probe; all others are spared the lock.
        if admitted && !matches!(connected, Err(Unconnected::Rejected(_))) {
            self.breaker.inconclusive(Instant::now());
        }
        Ok(Connection::new(connected?, Pass::new(permit, self.clone())))
    }

    /// Closes the version for logins, and asks for a trip that looks for another one.
    fn rejected(&self, error: &sqlx::Error) -> Rejection {
        let rejection = Rejection { reason: proof::reason(error), ..self.rejection.clone() };
        // With a successor of another version it is what a rotation does to the old one.
        let news = self.breaker.rejected(rejection.clone(), Instant::now()) && self.successor.borrow().is_none();
        if news {
            tracing::warn!(
                credential = rejection.credential,
                credential.version = %rejection.version,
                reason = rejection.reason,
                "the database refuses the login"
            );
        }
        if self.in_service.load(Ordering::Acquire) {
            self.reload_requests.request_for_rejected_login(news);
        }
        rejection
    }

    /// While the login is refused: tries it again, if that is not too often.
    pub(super) async fn probe(&self, reason: ProbeReason, until: Instant) {
        if self.breaker.rejection().is_none() {
            return;
        }
        let Ok(Ok(_turn)) = tokio::time::timeout_at(until, self.logins.acquire()).await else { return };
        if self.breaker.allow(reason, Instant::now()).is_err() {
            return;
        }
        let options = self.pool.connect_options();
        match tokio::time::timeout_at(until, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => {
                self.breaker.accepted();
                let _ = tokio::time::timeout_at(until, connection.close()).await;
            }
            Ok(Err(error)) if proof::is_rejected(&error) => {
                let rejection = Rejection { reason: proof::reason(&error), ..self.rejection.clone() };
                self.breaker.rejected(rejection, Instant::now());
            }
            _ => self.breaker.inconclusive(Instant::now()),
        }
    }

    /// As long as a caller waits for another version.
    pub(super) async fn patience(&self) {
        tokio::time::sleep(PATIENCE).await;
        self.reload_requests.no_reload_under_way().await;
    }

    /// Closes an idle connection, as soon as there is one, and keeps its place.
    pub(super) async fn give_up_one(self: &Arc<Self>) -> Option<OwnedSemaphorePermit> {
        let permit = self.permits.clone().acquire_owned().await.ok()?;
        while self.pool.size() > 0 {
            if let Some(connection) = self.pool.try_acquire() {
                // A connection that cannot say goodbye is gone as well.
                let _ = connection.close().await;
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Some(permit)
    }

    /// A connection that came back, for whom there is a place. sqlx can wait for one only where it may open one too.
    async fn returned(&self) -> PoolConnection<Postgres> {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if let Some(connection) = self.open_one().await {
                return connection;
            }
        }
    }

    /// A connection that is open, as soon as there is one, and a place.
    pub(super) async fn idle(self: &Arc<Self>) -> Connection {
        loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned()
                && let Some(connection) = self.open_one().await
            {
                return Connection::new(connection, Pass::new(permit, self.clone()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn open_one(&self) -> Option<PoolConnection<Postgres>> {
        let mut connection = self.pool.try_acquire()?;
        connection.ping().await.is_ok().then_some(connection)
    }

    /// What took this one's place, as soon as something did.
    pub(super) async fn succeeded(&self) -> Database {
        let mut successor = self.successor.subscribe();
        let next = successor.wait_for(Option::is_some).await.ok().and_then(|next| next.clone());
        match next {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }

    /// Closes idle connections, and busy ones as they come back. `Pool::close` would fail the requests that still
    /// hold this generation. The idle ones keep their permits until they are closed, so that a successor cannot open
    /// new ones beside them. Those that came back a moment ago become idle a moment later.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        // Without a runtime nothing can be closed, and sqlx panics where it tries.
        let Ok(runtime) = Handle::try_current() else { return };
        let idle: Vec<_> = std::iter::from_fn(|| self.pool.try_acquire())
            .map(|connection| (connection, self.permits.clone().try_acquire_owned().ok()))
            .collect();
        let (pool, end) = (self.pool.clone(), Instant::now() + CLOSING);
        runtime.spawn(async move {
            for (connection, permit) in idle {
                // A connection that cannot say goodbye is gone as well.
                let _ = connection.close().await;
                drop(permit);
            }
            while pool.size() > 0 && Instant::now() < end {
                while let Some(connection) = pool.try_acquire() {
                    let _ = connection.close().await;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
    }
}

/// A trip that fails after it built a pool leaves nothing behind, nor does a generation.
impl Drop for Pooled {
    fn drop(&mut self) {
        self.retire();
    }
}

/// A caller's share in the idle connections. Who has none needs a login.
struct Claim<'a>(&'a AtomicUsize);

impl<'a> Claim<'a> {
    fn on(claims: &'a AtomicUsize, idle: usize) -> Option<Self> {
        let claim = Self(claims);
        (claims.fetch_add(1, Ordering::AcqRel) < idle).then_some(claim)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether an idle connection is still one. In the place of a dead one sqlx opens another, within the same acquire: a
/// login like any other, which waits for its turn.
pub(super) async fn usable(
    connection: &mut PgConnection,
    meta: PoolConnectionMetadata,
    turns: Arc<Semaphore>,
) -> Result<bool, sqlx::Error> {
    if meta.idle_for < TRUSTED_IDLE || connection.ping().await.is_ok() {
        return Ok(true);
    }
    if TURN.with(|turn| turn.borrow().is_none()) {
        let turn = turns.acquire_owned().await.ok();
        TURN.with(|slot| *slot.borrow_mut() = turn);
    }
    Ok(false)
}
