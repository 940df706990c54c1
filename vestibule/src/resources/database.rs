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

use super::{BuildError, Resource};
use crate::{
    config::{self, TlsMode},
    credentials::Login,
    exit::{Exit, Fault},
    secrets::Credential,
};
use secrecy::ExposeSecret;
use sqlx::{
    Connection as _, PgConnection, PgPool,
    pool::PoolConnectionMetadata,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::Instant,
};

/// A connection that sat idle for longer is checked before it is handed out; checking each costs a quarter of a
/// database route (HikariCP's `aliveBypassWindow` is as long).
const TRUSTED_IDLE: Duration = Duration::from_millis(500);

/// How many logins run at once, so that few are refused before the version is closed for logins: these, and one for each
/// idle connection that turns out to be dead.
const LOGINS: usize = 2;

/// How often a request whose login was refused looks for a connection that came back.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a request whose login is refused waits for a successor, or for a connection that is open already.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a version of a login that was refused is not tried again. Belongs to the version: its successor never waits.
const COOLDOWN: Duration = Duration::from_secs(30);

/// How long stopping waits for connections that are still in use.
const CLOSING: Duration = Duration::from_secs(5);

/// A handle to the database, with the login of one version.
///
/// `sqlx::query(…).fetch_one(&database)` runs one statement; [`acquire`](Self::acquire) and [`begin`](Self::begin) give
/// a connection for more.
#[derive(Clone)]
pub struct Database(Arc<Pooled>);

struct Pooled {
    label: String,
    pool: PgPool,
    /// Connections that may be in use, over all generations of this database.
    permits: Arc<Semaphore>,
    /// Logins that may run at once.
    logins: Semaphore,
    max_connections: u32,
    acquire_timeout: Duration,
    retired: Arc<AtomicBool>,
    /// What took this one's place.
    successor: watch::Sender<Option<Database>>,
    /// When the database last refused this version of the login.
    refused: Mutex<Option<Instant>>,
}

impl Database {
    pub(super) async fn open(
        login: &Credential<Login>,
        config: &config::Database,
        before: Option<&Self>,
        proof: &Proof,
    ) -> Result<Self, BuildError> {
        let options = options(login, config).map_err(BuildError::Fault)?;
        proof.run(login, &options, config).await?;
        let max_connections = config.max_connections.get();
        let permits = before
            .filter(|before| before.0.max_connections == max_connections)
            .map_or_else(|| Arc::new(Semaphore::new(max_connections as usize)), |before| before.0.permits.clone());
        let retired = Arc::new(AtomicBool::new(false));
        let stays = {
            let retired = retired.clone();
            move || !retired.load(Ordering::Acquire)
        };
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(config.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| Box::pin(alive(connection, meta)))
            .after_release(move |_, _| {
                let stays = stays();
                Box::pin(async move { Ok(stays) })
            })
            .connect_lazy_with(options);
        Ok(Self(Arc::new(Pooled {
            label: format!("{} {}", login.name(), login.version()),
            pool,
            permits,
            logins: Semaphore::new(LOGINS),
            max_connections,
            acquire_timeout: config.acquire_timeout,
            retired,
            successor: watch::Sender::new(None),
            refused: Mutex::new(None),
        })))
    }

    /// A connection of the pool. If the login is refused, and the connection is not to be had from the successor within
    /// 3 s, the caller is told to come back: in the middle of a rotation that is a matter of a moment.
    ///
    /// # Errors
    /// `PoolTimedOut` after `database.acquire_timeout`; what the login fails with.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        tokio::time::timeout(self.0.acquire_timeout, self.connect_or_succeed())
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn connect_or_succeed(&self) -> Result<Connection, sqlx::Error> {
        let mut database = self.clone();
        loop {
            let error = match database.0.connect().await {
                Err(error) if proof::refused(&error) || matches!(error, sqlx::Error::Configuration(_)) => error,
                done => return done,
            };
            let pooled = database.0.clone();
            database = tokio::select! {
                next = pooled.succeeded() => next,
                idle = pooled.idle() => return Ok(idle),
                () = tokio::time::sleep(PATIENCE) => return Err(error),
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

impl Pooled {
    /// A connection that is open, or a new one unless the login was refused lately: a password that is wrong, asked for
    /// at each request, would lock the account out.
    async fn connect(self: &Arc<Self>) -> Result<Connection, sqlx::Error> {
        let closed = |_| sqlx::Error::PoolClosed;
        let permit = self.permits.clone().acquire_owned().await.map_err(closed)?;
        let opens_one = self.pool.num_idle() == 0 && self.pool.size() < self.max_connections;
        let _login = match opens_one {
            true => Some(self.logins.acquire().await.map_err(closed)?),
            false => None,
        };
        if let Some(refused) = self.closed_for_logins() {
            return Err(refused);
        }
        let acquired = self.pool.acquire().await;
        if matches!(&acquired, Err(error) if proof::refused(error)) {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        Ok(Connection::new(acquired?, Pass::new(permit, self.clone())))
    }

    fn closed_for_logins(&self) -> Option<sqlx::Error> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.filter(|at| at.elapsed() < COOLDOWN).map(|_| {
            sqlx::Error::Configuration("this version of the login was refused, and is not tried again yet".into())
        })
    }

    /// A connection that is open, as soon as one comes back. sqlx can wait for one only where it may open one too.
    async fn idle(self: &Arc<Self>) -> Connection {
        loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned()
                && let Some(mut connection) = self.pool.try_acquire()
                && connection.ping().await.is_ok()
            {
                return Connection::new(connection, Pass::new(permit, self.clone()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
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
    /// new ones beside them.
    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        // Without a runtime nothing can be closed, and sqlx panics where it tries.
        let Ok(runtime) = Handle::try_current() else { return };
        let idle: Vec<_> = std::iter::from_fn(|| self.pool.try_acquire())
            .map(|connection| (connection, self.permits.clone().try_acquire_owned().ok()))
            .collect();
        runtime.spawn(async move {
            for (connection, permit) in idle {
                // A connection that cannot say goodbye is gone as well.
                let _ = connection.close().await;
                drop(permit);
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
    fn retire(&self, successor: Option<&Self>) {
        if let Some(successor) = successor {
            self.0.successor.send_replace(Some(successor.clone()));
        }
        self.0.retire();
    }

    async fn close(&self) {
        let _ = tokio::time::timeout(CLOSING, self.0.pool.close()).await;
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.0.label).finish()
    }
}

async fn alive(connection: &mut PgConnection, meta: PoolConnectionMetadata) -> Result<bool, sqlx::Error> {
    Ok(meta.idle_for < TRUSTED_IDLE || connection.ping().await.is_ok())
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
