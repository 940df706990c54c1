//! PostgreSQL, through a pool that belongs to one version of one login.
//!
//! ```text
//! open: proof (one login, one look at the schema) ─► pool ─► acquire … ─► retire: closes idle connections now,
//!                                                                         busy ones when they come back
//! ```
//!
//! sqlx's pool is hidden, because the `Debug` of its options prints the password. A pool is never changed: a new version
//! of the login gets a new pool. One semaphore spans both pools, so the server sees no more connections than
//! `database.max_connections`, plus one for the login that proves a new pool.

mod connection;
mod error;
mod executor;
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
    config::settings::{DatabaseConfig, TlsMode},
    credentials::login::Login,
    exit::{Exit, Fault},
    secrets::credential::Credential,
};
pub use connection::{Connection, Transaction};
pub(crate) use error::{fault, transient};
use pooled::{CLOSE_TIMEOUT, CONCURRENT_LOGINS, ConnectError, LOGIN, Pooled, is_usable};
pub(crate) use proof::connect;
use secrecy::ExposeSecret;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

/// A handle to the database, with one version of its login. Clones share one pool.
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
pub struct Database(Arc<Pooled>);

/// The error of a caller that waited in vain: the database rejects this version of the login, and there was no other one
/// in time.
#[derive(Debug, thiserror::Error)]
#[error("{rejection}")]
pub(crate) struct LoginRejected {
    rejection: Rejection,
    /// The time until the login is tried again.
    pub(crate) retry_after: Duration,
}

impl From<LoginRejected> for sqlx::Error {
    fn from(rejected: LoginRejected) -> Self {
        Self::Configuration(Box::new(rejected))
    }
}

impl Database {
    /// Proves the login, and makes a pool for it. `predecessor` is the database in service.
    pub(crate) async fn open(
        login: &Credential<Login>,
        predecessor: Option<&Self>,
        context: &LoadContext<'_>,
    ) -> Result<Self, BuildError> {
        let config = context.database;
        let connect_options = options(login, config).map_err(BuildError::Fault)?;
        let breaker = context.breakers.of(&place(login, &connect_options), context.secrets.probe_every, Instant::now());
        let old_pool = predecessor.map(|database| &database.0);
        proof::prove(login, &connect_options, &breaker, old_pool, context).await?;
        let max_connections = config.max_connections.get();
        let permits = match old_pool {
            Some(old_pool) if old_pool.max_connections == max_connections => old_pool.permits.clone(),
            _ => Arc::new(Semaphore::new(max_connections as usize)),
        };
        let retired = Arc::new(AtomicBool::new(false));
        let logins = Arc::new(Semaphore::new(CONCURRENT_LOGINS));
        let pool = new_pool(config, connect_options, retired.clone(), logins.clone());
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

    /// Returns a connection of the pool.
    ///
    /// If the database rejects the login, this call requests a reload, which looks for another version. It waits for a
    /// connection of that version, so its caller only sees a slow call. It fails at once if the login has been rejected for
    /// longer than `database.acquire_timeout` and no connection is open.
    ///
    /// # Errors
    /// `PoolTimedOut` after `database.acquire_timeout`. `Configuration` if the login is rejected. Any other error of a
    /// login.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        match tokio::time::timeout(self.0.acquire_timeout, self.connect_or_follow_successor()).await {
            Ok(connected) => connected,
            Err(_) => Err(match self.0.breaker.rejection() {
                Some(rejection) => self.0.login_rejected(rejection).into(),
                None => sqlx::Error::PoolTimedOut,
            }),
        }
    }

    /// Connects. If the login is rejected, connects through the successor as soon as there is one.
    async fn connect_or_follow_successor(&self) -> Result<Connection, sqlx::Error> {
        let mut pooled = self.0.clone();
        loop {
            let rejection = match pooled.connect().await {
                Ok((connection, permit)) => return Ok(Connection::new(connection, permit, pooled)),
                Err(ConnectError::Rejected(rejection)) => rejection,
                Err(ConnectError::Failed(error)) => return Err(error),
            };
            if !pooled.in_service.load(Ordering::Acquire) || pooled.fails_fast() {
                return Err(pooled.login_rejected(rejection).into());
            }
            let successor = tokio::select! {
                biased;
                successor = pooled.successor() => successor,
                (connection, permit) = pooled.idle_connection() => {
                    return Ok(Connection::new(connection, permit, pooled));
                }
                () = pooled.breaker.accepted_again() => continue,
            };
            pooled = successor;
        }
    }

    /// Begins a transaction on a connection of the pool.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire). The database's error if the transaction cannot begin.
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
            self.0.successor.send_replace(Some(successor.0.clone()));
        }
        self.0.retire();
    }

    fn connections(&self) -> Option<Connections> {
        let idle = self.0.pool.num_idle();
        Some(Connections { idle, used: (self.0.pool.size() as usize).saturating_sub(idle) })
    }

    async fn close(&self) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.0.pool.close()).await;
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rejection { credential, version, .. } = &self.0.rejection;
        f.debug_struct("Database").field("credential", credential).field("version", version).finish_non_exhaustive()
    }
}

/// Makes a pool without a connection. Its hooks check idle connections, tell the caller of each login that was accepted,
/// and close the connections that come back after the pool was retired.
fn new_pool(
    config: &DatabaseConfig,
    connect_options: PgConnectOptions,
    retired: Arc<AtomicBool>,
    logins: Arc<Semaphore>,
) -> PgPool {
    PgPoolOptions::new()
        .max_connections(config.max_connections.get())
        .acquire_timeout(config.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| Box::pin(is_usable(connection, meta, logins.clone())))
        .after_connect(move |_, _| {
            // The callers outside of `connect` open no connection.
            let _ = LOGIN.try_with(|login| login.logged_in.set(true));
            Box::pin(async { Ok(()) })
        })
        .after_release(move |_, _| {
            let stays_open = !retired.load(Ordering::Acquire);
            Box::pin(async move { Ok(stays_open) })
        })
        .connect_lazy_with(connect_options)
}

/// Returns a text that names a version of a credential, the place that it logs in at, and the user.
fn place(login: &Credential<Login>, options: &PgConnectOptions) -> String {
    let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_default();
    let mode = options.get_ssl_mode();
    format!("{} {} {user} {host} {port} {database} {mode:?}", login.subject(), login.version())
}

/// Returns the options of a connection. Host, port, database and user of the credential win over the configuration.
///
/// # Errors
/// A fault with exit code 78 if neither names a user.
pub(crate) fn options(login: &Credential<Login>, config: &DatabaseConfig) -> Result<PgConnectOptions, Fault> {
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
    if config.tls_root_cert.as_os_str().is_empty() {
        Ok(options)
    } else {
        Ok(options.ssl_root_cert(&config.tls_root_cert))
    }
}
