//! One version of a login, as the pool uses it.

use super::section::DatabaseSection;
use crate::{
    config::settings::TlsMode,
    credentials::{certificate::Certificate, login::Login},
    exit::{Exit, Fault},
    regular_file,
    resources::{circuit_breaker::CircuitBreaker, connection_counter::ConnectionCounter, context::LoadContext},
    secrets::{credential::Credential, lease::SecretLease},
    traces::Tracer,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::ExposeSecret;
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use std::{
    future::poll_fn,
    io,
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::time::Instant;

/// The shortest time between two checks of a login that an error of a statement made suspect.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(15);

/// The number of steps for which a log-in goes on before it gives way to other tasks. If it computes, they take half a
/// millisecond. If it waits for the server, each step only finds that there is no answer yet.
const STEPS_OF_A_LOGIN: usize = 256;

/// One version of a login at one place, with the settings of its connections.
pub(super) struct PoolLogin {
    /// The value that the options have a copy of. While it is held here, `/status` shows the version as held.
    _credential: Arc<Login>,
    lease: Option<Arc<SecretLease>>,
    pub(super) options: PgConnectOptions,
    pub(super) limits: PoolLimits,
    pub(super) breaker: CircuitBreaker,
    /// The open connections that were made with this login.
    pub(super) connections: ConnectionCounter,
    pub(super) tracer: Tracer,
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
    /// As [`options`].
    pub(super) fn new(
        login: &Credential<Login>,
        section: DatabaseSection<'_>,
        context: &LoadContext<'_>,
    ) -> Result<Self, Fault> {
        let config = section.config;
        let or_request_timeout = |setting: Duration| if setting.is_zero() { context.request_timeout } else { setting };
        let statement_timeout = or_request_timeout(config.statement_timeout);
        let milliseconds = |setting: Duration| setting.as_millis().clamp(1, i32::MAX as u128).to_string();
        let options = options(login, section)?.application_name(context.package.name).options([
            ("statement_timeout", milliseconds(statement_timeout)),
            (
                "idle_in_transaction_session_timeout",
                milliseconds(or_request_timeout(config.idle_in_transaction_timeout)),
            ),
        ]);
        let breaker = CircuitBreaker::new(login, &user_at_place(&options), context);
        Ok(Self {
            _credential: login.shared(),
            lease: login.lease.clone(),
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
            discarded: AtomicBool::new(false),
            last_suspicion: Mutex::default(),
        })
    }

    /// Returns the host, the port and the database.
    pub(super) fn place(&self) -> (&str, u16, Option<&str>) {
        (self.options.get_host(), self.options.get_port(), self.options.get_database())
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

    pub(super) fn set_discarded(&self) {
        self.discarded.store(true, Ordering::Release);
    }

    pub(super) fn was_discarded(&self) -> bool {
        self.discarded.load(Ordering::Acquire)
    }
}

/// Logs in once.
///
/// For SCRAM, sqlx computes for a millisecond, and gives way to other tasks 819 times on the way. Under load, each time costs
/// a turn of all tasks that are ready. So this gives way once in [`STEPS_OF_A_LOGIN`] times.
pub(super) async fn log_in(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connecting = pin!(PgConnection::connect_with(options));
    poll_fn(|cx| {
        for _ in 1..STEPS_OF_A_LOGIN {
            if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
                return Poll::Ready(connected);
            }
        }
        connecting.as_mut().poll(cx)
    })
    .await
}

/// Returns a text that names the user, and the place that it logs in at.
fn user_at_place(options: &PgConnectOptions) -> String {
    let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_default();
    let mode = options.get_ssl_mode();
    format!("{user} {host} {port} {database} {mode:?}")
}

/// Returns the options of a connection. Host, port, database and user of the credential win over the configuration.
///
/// # Errors
/// A fault with exit code 78 if neither names a user.
pub(crate) fn options(login: &Credential<Login>, section: DatabaseSection<'_>) -> Result<PgConnectOptions, Fault> {
    let config = section.config;
    let Some(username) = login.username.as_deref().or(config.username.as_deref()) else {
        return Err(section.name_in(Fault::new(
            Exit::Config,
            "database.username",
            format!("{} is a bare password, and no user name is configured", login.subject()),
            "set database.username, or put {\"username\": …, \"password\": …} at the manager",
        )));
    };
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
        .database(login.dbname.as_deref().unwrap_or(config.name()))
        .username(username)
        .password(login.password.expose_secret())
        .ssl_mode(mode);
    let Some(authorities) = &config.tls_root_cert else { return Ok(options) };
    check_root_cert(authorities)?;
    Ok(options.ssl_root_cert(authorities))
}

/// Checks that the driver will see every certificate of this file: it leaves out what it cannot read. The driver itself
/// reports a file that is not there, and would wait for somebody who writes to a FIFO.
///
/// # Errors
/// A fault with exit code 78 if a part of the file would be left out.
fn check_root_cert(path: &Path) -> Result<(), Fault> {
    let subject = format!("database.tls_root_cert = {}", path.display());
    let remedy = "correct the file: a PEM file with the certificates of authorities";
    let text = match regular_file::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(Fault::new(Exit::Config, subject, error.to_string(), remedy));
        }
        Err(_) => return Ok(()),
    };
    let seen = CertificateDer::pem_slice_iter(text.as_bytes()).filter(Result::is_ok).count();
    let problem = match Certificate::parse_all(&text, "certificates in PEM and nothing else, each block whole") {
        Ok(all) if all.len() == seen => return Ok(()),
        Ok(_) => "a newline is missing between two of its certificates".to_owned(),
        Err(malformed) => malformed.to_string(),
    };
    Err(Fault::new(Exit::Config, subject, problem, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_of_authorities_must_be_one_that_the_driver_reads_whole() {
        let authority = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem();
        let (one, other) = (authority("one"), authority("other"));
        let path = std::env::temp_dir().join(format!("authorities-{}.pem", uuid::Uuid::new_v4()));
        for (text, problem) in [
            (format!("{one}{other}"), None),
            (format!("# the first\n{one}\n{other}"), None),
            (format!("{}{other}", one.trim()), Some("a newline is missing")),
            (format!("{one}{}", other.replacen("-----END", "----END", 1)), Some("certificates in PEM")),
            ("nothing".to_owned(), Some("certificates in PEM")),
        ] {
            fs::write(&path, &text).unwrap();
            let fault = check_root_cert(&path).err();
            match (problem, &fault) {
                (None, None) => (),
                (Some(problem), Some(fault)) => assert!(fault.problem.contains(problem), "{}", fault.problem),
                _ => panic!("{text}"),
            }
        }
        fs::remove_file(&path).unwrap();
        assert!(check_root_cert(&path).is_ok(), "the driver reports it");
    }
}
