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
mod pooled;
mod proof;

use super::{
    breaker::ProbeReason,
    build_error::BuildError,
    context::LoadContext,
    rejection::Rejection,
    resource::{Connections, Resource},
};
use crate::{
    config::{self, settings::TlsMode},
    credentials::login::Login,
    exit::{Exit, Fault},
    secrets::credential::Credential,
};
pub use connection::{Connection, Transaction};
use pooled::{CLOSING, LOGINS, Pooled, Unconnected, usable};
pub(crate) use proof::{connect, fault, transient};

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

/// A handle to the database, with the login of one version.
///
/// `sqlx::query(…).fetch_one(&database)` runs one statement; [`acquire`](Self::acquire) and [`begin`](Self::begin) give
/// a connection for more.
#[derive(Clone)]
pub struct Database(Arc<Pooled>);

/// The database refuses this version of the login, and no other one was to be had in time.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct LoginRejected(Rejection);

impl From<LoginRejected> for sqlx::Error {
    fn from(refused: LoginRejected) -> Self {
        Self::Configuration(Box::new(refused))
    }
}

impl Database {
    pub(crate) async fn open(
        login: &Credential<Login>,
        before: Option<&Self>,
        context: &LoadContext<'_>,
    ) -> Result<Self, BuildError> {
        let config = context.database;
        let options = options(login, config).map_err(BuildError::Fault)?;
        let breaker = context.breakers.of(&place(login, &options), Instant::now());
        proof::prove(login, &options, &breaker, before, context).await?;
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
        let accepted = breaker.clone();
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
            rejection: Rejection::of(login, ""),
            pool,
            permits,
            logins,
            claims: AtomicUsize::new(0),
            max_connections,
            acquire_timeout: config.acquire_timeout,
            in_service: AtomicBool::new(false),
            retired,
            successor: watch::Sender::new(None),
            breaker,
            reload_requests: context.reload_requests.clone(),
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
            Err(self
                .0
                .breaker
                .rejection()
                .map_or(sqlx::Error::PoolTimedOut, |rejection| LoginRejected(rejection).into()))
        })
    }

    async fn connect_or_succeed(&self) -> Result<Connection, sqlx::Error> {
        let mut database = self.clone();
        loop {
            let rejection = match database.0.connect().await {
                Ok(connection) => return Ok(connection),
                Err(Unconnected::Rejected(rejection)) => rejection,
                Err(Unconnected::Failed(error)) => return Err(error),
            };
            let pooled = database.0.clone();
            if !pooled.in_service.load(Ordering::Acquire) {
                return Err(LoginRejected(rejection).into());
            }
            database = tokio::select! {
                biased;
                next = pooled.succeeded() => next,
                idle = pooled.idle() => return Ok(idle),
                () = pooled.breaker.accepted_again() => database,
                () = pooled.patience() => return Err(LoginRejected(rejection).into()),
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

impl Resource for Database {
    fn publish(&self) {
        self.0.in_service.store(true, Ordering::Release);
    }

    fn rejection(&self) -> Option<Rejection> {
        self.0.breaker.rejection()
    }

    async fn probe(&self, reason: ProbeReason, deadline: Instant) {
        self.0.probe(reason, deadline.min(Instant::now() + proof::ATTEMPT)).await;
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
        let Rejection { credential, version, .. } = &self.0.rejection;
        f.debug_struct("Database").field("credential", credential).field("version", version).finish_non_exhaustive()
    }
}

/// Which version of which credential logs in where, how and as whom.
fn place(login: &Credential<Login>, options: &PgConnectOptions) -> String {
    let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_default();
    let mode = options.get_ssl_mode();
    format!("{} {} {user} {host} {port} {database} {mode:?}", login.subject(), login.version())
}

/// Where to connect and as whom. What the credential says of host, port and database wins.
pub(crate) fn options(login: &Credential<Login>, config: &config::DatabaseConfig) -> Result<PgConnectOptions, Fault> {
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
    Ok(if config.tls_root_cert.as_os_str().is_empty() { options } else { options.ssl_root_cert(&config.tls_root_cert) })
}
