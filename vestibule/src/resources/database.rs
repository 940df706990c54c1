//! PostgreSQL, through a pool that belongs to one version of one login.
//!
//! ```text
//! open: proof (one login, one look at the schema) ─► pool ─► acquire … ─► retire: idle ones close now, busy ones
//!                                                                         as they come back
//! ```
//!
//! sqlx's pool is hidden: the `Debug` of its options prints the password, and a pool is never altered. A new version
//! of the login gets a new pool, and one semaphore spans both, so that the server sees no more than
//! `database.max_connections`, plus the login that proves a new pool.

mod connection;
mod proof;

use connection::Pass;
pub use connection::{Connection, Transaction};
pub(crate) use proof::{Proof, connect, fault, transient};

use super::{
    BuildError, Connections, Refusal, Resource,
    standing::{Occasion, Standing},
};
use crate::{
    bell::Bell,
    config::{self, TlsMode},
    credentials::Login,
    exit::{Exit, Fault},
    secrets::Credential,
};
use secrecy::ExposeSecret;
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::{PoolConnection, PoolConnectionMetadata},
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::{
    cell::RefCell,
    fmt,
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
const LOGINS: usize = 2;

/// How often a request that cannot log in looks for a connection that came back.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a request whose login is refused waits for a successor, or for a connection that is open already; longer
/// while a trip is under way that may bring one.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long stopping waits for connections that are still in use.
const CLOSING: Duration = Duration::from_secs(5);

/// A handle to the database, with the login of one version.
///
/// `sqlx::query(…).fetch_one(&database)` runs one statement; [`acquire`](Self::acquire) and [`begin`](Self::begin) give
/// a connection for more.
#[derive(Clone)]
pub struct Database(Arc<Pooled>);

struct Pooled {
    /// What a refusal says, but for the reason.
    refusal: Refusal,
    pool: PgPool,
    /// Connections that may be in use, over all generations of this database.
    permits: Arc<Semaphore>,
    /// Logins that may run at once.
    logins: Arc<Semaphore>,
    /// Callers that count on an idle connection.
    claims: AtomicUsize,
    max_connections: u32,
    acquire_timeout: Duration,
    /// Whether a refused login is worth a trip: not while the trip that built this is under way.
    in_service: AtomicBool,
    retired: Arc<AtomicBool>,
    /// What took this one's place.
    successor: watch::Sender<Option<Database>>,
    standing: Arc<Standing>,
    bell: Arc<Bell>,
}

tokio::task_local! {
    /// The turn to log in of the acquire that runs sqlx's hooks.
    static TURN: RefCell<Option<OwnedSemaphorePermit>>;
}

/// The database refuses this version of the login, and no other one was to be had in time.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct LoginRefused(Refusal);

impl From<LoginRefused> for sqlx::Error {
    fn from(refused: LoginRefused) -> Self {
        Self::Configuration(Box::new(refused))
    }
}

impl Database {
    pub(super) async fn open(
        login: &Credential<Login>,
        config: &config::Database,
        before: Option<&Self>,
        proof: &Proof<'_>,
    ) -> Result<Self, BuildError> {
        let options = options(login, config).map_err(BuildError::Fault)?;
        let standing = proof.attempt.standings.of(&place(login, &options), Instant::now());
        proof.run(login, &options, config, &standing, before).await?;
        let max_connections = config.max_connections.get();
        let permits = before
            .filter(|before| before.0.max_connections == max_connections)
            .map_or_else(|| Arc::new(Semaphore::new(max_connections as usize)), |before| before.0.permits.clone());
        let retired = Arc::new(AtomicBool::new(false));
        let stays = {
            let retired = retired.clone();
            move || !retired.load(Ordering::Acquire)
        };
        let logins = Arc::new(Semaphore::new(LOGINS));
        let turns = logins.clone();
        let accepted = standing.clone();
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(config.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| Box::pin(usable(connection, meta, turns.clone())))
            .after_connect(move |_, _| {
                accepted.accepted();
                Box::pin(async { Ok(()) })
            })
            .after_release(move |_, _| {
                let stays = stays();
                Box::pin(async move { Ok(stays) })
            })
            .connect_lazy_with(options);
        Ok(Self(Arc::new(Pooled {
            refusal: Refusal::of(login, ""),
            pool,
            permits,
            logins,
            claims: AtomicUsize::new(0),
            max_connections,
            acquire_timeout: config.acquire_timeout,
            in_service: AtomicBool::new(false),
            retired,
            successor: watch::Sender::new(None),
            standing,
            bell: proof.attempt.bell.clone(),
        })))
    }

    /// A connection of the pool. If the login is refused, the manager is asked for another version, and the connection
    /// comes from the pool of that one: the caller sees a slow call. A caller for whom there is none within 3 s, or at the
    /// end of the trip that asks, is told to come back later.
    ///
    /// # Errors
    /// `PoolTimedOut` after `database.acquire_timeout`; `Configuration` while the login is refused; what else the login
    /// fails with.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        tokio::time::timeout(self.0.acquire_timeout, self.connect_or_succeed()).await.unwrap_or_else(|_| {
            Err(self.0.standing.refusal().map_or(sqlx::Error::PoolTimedOut, |refusal| LoginRefused(refusal).into()))
        })
    }

    async fn connect_or_succeed(&self) -> Result<Connection, sqlx::Error> {
        let mut database = self.clone();
        loop {
            let refusal = match database.0.connect().await {
                Ok(connection) => return Ok(connection),
                Err(Unconnected::Refused(refusal)) => refusal,
                Err(Unconnected::Failed(error)) => return Err(error),
            };
            let pooled = database.0.clone();
            if !pooled.in_service.load(Ordering::Acquire) {
                return Err(LoginRefused(refusal).into());
            }
            database = tokio::select! {
                biased;
                next = pooled.succeeded() => next,
                idle = pooled.idle() => return Ok(idle),
                () = pooled.patience() => return Err(LoginRefused(refusal).into()),
            };
        }
    }

    /// A connection with a transaction begun; dropping it rolls back.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        self.acquire().await?.begin().await
    }
}

/// Why there is no connection.
#[derive(thiserror::Error, Debug)]
#[error(transparent)]
enum Unconnected {
    Refused(#[from] Refusal),
    Failed(#[from] sqlx::Error),
}

impl Pooled {
    /// A connection that is open, or a new one unless the login is refused.
    async fn connect(self: &Arc<Self>) -> Result<Connection, Unconnected> {
        let closed = |_| sqlx::Error::PoolClosed;
        let permit = self.permits.clone().acquire_owned().await.map_err(closed)?;
        let mut refusals = self.standing.watch();
        let claim = Claim::on(&self.claims, self.pool.num_idle());
        let turn = match claim {
            // It may turn out to be dead.
            Some(_) => self.standing.refusal().map_or(Ok(None), Err)?,
            None => {
                let turn = tokio::select! {
                    biased;
                    turn = self.logins.clone().acquire_owned() => turn.map_err(closed)?,
                    connection = self.returned() => {
                        return Ok(Connection::new(connection, Pass::new(permit, self.clone())));
                    }
                };
                self.standing.admit(Occasion::Routine, Instant::now())?;
                Some(turn)
            }
        };
        let connecting = async {
            self.pool.acquire().await.map_err(|error| match proof::refused(&error) {
                true => Unconnected::Refused(self.refused(&error)),
                false => Unconnected::Failed(error),
            })
        };
        // The turn is held until a refusal is known to whoever comes next.
        let connection = tokio::select! {
            biased;
            refusal = refusals.refused() => return Err(refusal.into()),
            connection = TURN.scope(RefCell::new(turn), connecting) => connection?,
        };
        Ok(Connection::new(connection, Pass::new(permit, self.clone())))
    }

    /// Closes the version for logins, and asks for a trip that looks for another one.
    fn refused(&self, error: &sqlx::Error) -> Refusal {
        let refusal = Refusal { reason: proof::reason(error), ..self.refusal.clone() };
        // With a successor it is what a rotation does to an old version.
        let news = self.standing.refused(refusal.clone(), Instant::now()) && self.successor.borrow().is_none();
        if news {
            tracing::warn!(
                credential = refusal.credential,
                credential.version = %refusal.version,
                reason = refusal.reason,
                "the database refuses the login; the secrets manager is asked for another version"
            );
        }
        if self.in_service.load(Ordering::Acquire) {
            self.bell.refused(news);
        }
        refusal
    }

    /// While the login is refused: tries it again, if that is not too often.
    async fn probe(&self, occasion: Occasion) {
        if self.standing.refusal().is_none() || self.standing.admit(occasion, Instant::now()).is_err() {
            return;
        }
        let Ok(_turn) = self.logins.acquire().await else { return };
        match PgConnection::connect_with(&self.pool.connect_options()).await {
            Ok(connection) => {
                self.standing.accepted();
                let _ = connection.close().await;
            }
            Err(error) if proof::refused(&error) => {
                self.standing
                    .refused(Refusal { reason: proof::reason(&error), ..self.refusal.clone() }, Instant::now());
            }
            Err(_) => {}
        }
    }

    /// As long as a caller waits for another version.
    async fn patience(&self) {
        tokio::time::sleep(PATIENCE).await;
        self.bell.quiet().await;
    }

    /// Closes an idle connection, as soon as there is one, and keeps its place.
    async fn give_up_one(self: &Arc<Self>) -> Option<OwnedSemaphorePermit> {
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
    async fn idle(self: &Arc<Self>) -> Connection {
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
    async fn succeeded(&self) -> Database {
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
    fn retire(&self) {
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

impl Resource for Database {
    fn publish(&self) {
        self.0.in_service.store(true, Ordering::Release);
    }

    fn refusal(&self) -> Option<Refusal> {
        self.0.standing.refusal()
    }

    async fn probe(&self, occasion: Occasion, deadline: Instant) {
        let _ = tokio::time::timeout_at(deadline.min(Instant::now() + proof::ATTEMPT), self.0.probe(occasion)).await;
    }

    fn retire(&self, successor: Option<&Self>) {
        if let Some(successor) = successor {
            self.0.successor.send_replace(Some(successor.clone()));
        }
        self.0.retire();
    }

    fn connections(&self) -> Option<Connections> {
        let idle = self.0.pool.num_idle();
        Some(Connections { idle, used: (self.0.pool.size() as usize).saturating_sub(idle) })
    }

    async fn close(&self) {
        let _ = tokio::time::timeout(CLOSING, self.0.pool.close()).await;
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { credential, version, .. } = &self.0.refusal;
        f.debug_struct("Database").field("credential", credential).field("version", version).finish_non_exhaustive()
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

/// Which version of which credential logs in where, and as whom.
fn place(login: &Credential<Login>, options: &PgConnectOptions) -> String {
    let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_default();
    format!("{} {} {user} {host} {port} {database}", login.subject(), login.version())
}

/// Whether an idle connection is still one. In the place of a dead one sqlx opens another, within the same acquire: a
/// login like any other, which waits for its turn.
async fn usable(
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

/// Where to connect and as whom. What the credential says of host, port and database wins.
pub(crate) fn options(login: &Credential<Login>, config: &config::Database) -> Result<PgConnectOptions, Fault> {
    let username = login.username.as_deref().unwrap_or(&config.username);
    if username.is_empty() {
        return Err(Fault::new(
            Exit::Config,
            "database.username",
            format!("{} is a bare password, and no user name is configured", login.subject()),
            "set database.username, or put {\"username\": …, \"password\": …} at the manager",
        ));
    }
    let mode = match config.tls {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::Allow => PgSslMode::Allow,
        TlsMode::Prefer => PgSslMode::Prefer,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::VerifyCa => PgSslMode::VerifyCa,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    };
    let options = PgConnectOptions::new_without_pgpass()
        .host(login.host.as_deref().unwrap_or(&config.host))
        .port(login.port.unwrap_or(config.port.get()))
        .database(login.dbname.as_deref().unwrap_or(&config.name))
        .username(username)
        .password(login.password.expose_secret())
        .ssl_mode(mode);
    Ok(match config.tls_root_cert.as_os_str().is_empty() {
        true => options,
        false => options.ssl_root_cert(&config.tls_root_cert),
    })
}
