//! One version of a login, as the pool uses it.

use super::{log_in::LogInOptions, section::DatabaseSection};
use crate::{
    config::settings::DatabaseConfig,
    credentials::login::Login,
    exit::Fault,
    resources::{
        circuit_breaker::CircuitBreaker, connection_counter::ConnectionCounter, context::LoadContext,
        rejection::Rejection,
    },
    secrets::{credential::Credential, lease::SecretLease},
    traces::Tracer,
};
use sqlx::postgres::PgConnectOptions;
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The shortest time between two checks of a login that an error of a statement made suspect.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(15);

/// One version of a login at one place, with the settings of its connections.
pub(super) struct PoolLogin {
    /// The value that the options have a copy of. While it is held here, `/status` shows the version as held.
    _credential: Arc<Login>,
    lease: Option<Arc<SecretLease>>,
    /// All that a log-in proves, as text: the version, and the settings of the section but its limits.
    proves: String,
    pub(super) options: LogInOptions,
    pub(super) limits: PoolLimits,
    pub(super) breaker: CircuitBreaker,
    /// The open connections that were made with this login.
    pub(super) connections: ConnectionCounter,
    pub(super) tracer: Tracer,
    /// A permit for each connection that the load which proves the login uses at a time: `database.max_connections`.
    before_publication: Arc<Semaphore>,
    discarded: AtomicBool,
    last_suspicion: Mutex<Option<Instant>>,
}

/// The limits of a pool and of its connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolLimits {
    pub(super) max_connections: usize,
    pub(super) acquire_timeout: Duration,
    pub(super) statement_timeout: Duration,
    pub(super) max_lifetime: Duration,
    pub(super) idle_timeout: Duration,
}

/// The error of a caller that waited in vain: no log-in succeeded in time.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct DatabaseUnavailable {
    pub(super) reason: String,
    /// The time until the next try.
    pub(crate) retry_after: Duration,
}

impl DatabaseUnavailable {
    /// Returns the reason for which there was no connection, if that is the error.
    pub(crate) fn of(error: &sqlx::Error) -> Option<&Self> {
        match error {
            sqlx::Error::Io(cause) => cause.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}

impl From<DatabaseUnavailable> for sqlx::Error {
    fn from(unavailable: DatabaseUnavailable) -> Self {
        Self::Io(io::Error::new(io::ErrorKind::NotConnected, unavailable))
    }
}

impl PoolLogin {
    /// Returns the login with the settings of a load.
    ///
    /// # Errors
    /// As [`LogInOptions::of_service`].
    pub(super) async fn new(
        login: &Credential<Login>,
        section: DatabaseSection<'_>,
        context: &LoadContext<'_>,
    ) -> Result<Self, Fault> {
        let config = section.config;
        let or_request_timeout = |setting: Duration| if setting.is_zero() { context.request_timeout } else { setting };
        let statement_timeout = or_request_timeout(config.statement_timeout);
        let milliseconds = |setting: Duration| setting.as_millis().clamp(1, i32::MAX as u128).to_string();
        let idle_in_transaction_timeout = or_request_timeout(config.idle_in_transaction_timeout);
        let (aws, is_strict) = (&context.secrets.aws, context.is_strict);
        let options = LogInOptions::of_service(login, section, aws, is_strict, context.files).await?;
        let options = options.map(|options| {
            let options = options.application_name(context.package.name);
            if !config.startup_options {
                return options;
            }
            options.options([
                ("statement_timeout", milliseconds(statement_timeout)),
                ("idle_in_transaction_session_timeout", milliseconds(idle_in_transaction_timeout)),
            ])
        });
        let breaker = CircuitBreaker::new(login, &user_at_place(&options.connection), context);
        Ok(Self {
            _credential: login.shared(),
            lease: login.lease.clone(),
            proves: format!("{} {} {:?}", login.subject(), login.version(), without_limits(config)),
            options,
            limits: PoolLimits {
                max_connections: config.max_connections.get() as usize,
                acquire_timeout: config.acquire_timeout,
                statement_timeout,
                max_lifetime: config.max_lifetime,
                idle_timeout: config.idle_timeout,
            },
            breaker,
            connections: ConnectionCounter::default(),
            tracer: context.tracer.clone(),
            before_publication: Arc::new(Semaphore::new(config.max_connections.get() as usize)),
            discarded: AtomicBool::new(false),
            last_suspicion: Mutex::default(),
        })
    }

    /// Returns the host, the port and the database.
    pub(super) fn place(&self) -> (&str, u16, Option<&str>) {
        let options = &self.options.connection;
        (options.get_host(), options.get_port(), options.get_database())
    }

    /// Returns `true` if the other login differs in its limits at most. If one of both is proven, the other one is.
    pub(super) fn is_proven_by(&self, other: &Self) -> bool {
        self.proves == other.proves
    }

    /// Returns `true` if an error of a statement is a reason to check the login now.
    pub(super) fn is_suspect(&self) -> bool {
        let mut last = self.last_suspicion.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < SUSPICION_INTERVAL) {
            return false;
        }
        *last = Some(Instant::now());
        true
    }

    /// Returns `true` if the lease of the login has ended. Nobody logs in with it, and no connection of it is handed out.
    pub(super) fn is_over(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.has_ended())
    }

    pub(super) fn was_published(&self) -> bool {
        self.breaker.was_published()
    }

    /// Waits until the load that proves the login may use another connection of it.
    pub(super) async fn permit_before_publication(&self) -> Option<OwnedSemaphorePermit> {
        self.before_publication.clone().acquire_owned().await.ok()
    }

    /// Returns the error of a caller whose log-in is rejected, or not tried.
    pub(super) fn unavailable(&self, rejection: &Rejection) -> sqlx::Error {
        let retry_after = self.breaker.time_to_next_probe();
        DatabaseUnavailable { reason: rejection.to_string(), retry_after }.into()
    }

    pub(super) fn set_discarded(&self) {
        self.discarded.store(true, Ordering::Release);
    }

    pub(super) fn was_discarded(&self) -> bool {
        self.discarded.load(Ordering::Acquire)
    }
}

/// Returns the settings with the limits of the defaults.
fn without_limits(config: &DatabaseConfig) -> DatabaseConfig {
    let DatabaseConfig {
        max_connections,
        acquire_timeout,
        statement_timeout,
        idle_in_transaction_timeout,
        max_lifetime,
        idle_timeout,
        ..
    } = DatabaseConfig::default();
    DatabaseConfig {
        max_connections,
        acquire_timeout,
        statement_timeout,
        idle_in_transaction_timeout,
        max_lifetime,
        idle_timeout,
        ..config.clone()
    }
}

/// Returns a text that names the user, and the place that it logs in at.
fn user_at_place(options: &PgConnectOptions) -> String {
    let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_default();
    let mode = options.get_ssl_mode();
    format!("{user} {host} {port} {database} {mode:?}")
}
