//! A log-in: the options of its connection, and the password or the token that it brings.

use super::{
    error::{is_rejected, of_token, reason},
    section::DatabaseSection,
};
use crate::{
    config::settings::{AwsConfig, TlsMode},
    credentials::{certificate::Certificate, login::Login},
    exit::{Exit, Fault},
    regular_file,
    secrets::{
        aws::rds_token::{RdsTokenError, RdsTokenSigner, RdsUser},
        credential::Credential,
    },
};
use futures_util::FutureExt;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::ExposeSecret;
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use std::{
    future::poll_fn,
    io,
    panic::AssertUnwindSafe,
    path::Path,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

/// The number of steps for which a log-in goes on before it gives way to other tasks. If it computes, they take half a
/// millisecond. If it waits for the server, each step only finds that there is no answer yet.
const STEPS_OF_A_LOGIN: usize = 256;

/// The options of a connection, and the signer of its tokens if it logs in with IAM.
pub(crate) struct LogInOptions {
    /// They have the password, unless there is a signer.
    pub(super) connection: PgConnectOptions,
    signer: Option<RdsTokenSigner>,
    /// `true` from the log line about a token that could not be signed until a log-in succeeds.
    is_failure_logged: AtomicBool,
}

impl LogInOptions {
    /// Returns the options for the login of a service: with its password, or with tokens if the section says so. `aws` and
    /// `is_strict` are for the identity that signs them.
    ///
    /// # Errors
    /// As [`with_password`](Self::with_password). A fault with exit code 78 if the login is that of another database, which
    /// logs in otherwise.
    pub(super) fn of_service(
        login: &Credential<Login>,
        section: DatabaseSection<'_>,
        aws: &AwsConfig,
        is_strict: bool,
    ) -> Result<Self, Fault> {
        match (section.config.is_iam(), login.has_secret()) {
            (false, true) => Self::with_password(login, section),
            (true, false) => Self::with_tokens(section.config.username.as_deref(), section, aws, is_strict),
            (is_iam, _) => {
                let key = section.key();
                let problem = if is_iam { "is not needed" } else { "has no secret: its own database logs in with IAM" };
                Err(Fault::new(
                    Exit::Config,
                    format!("section [{key}]"),
                    format!("the service gives this database {}, which {problem}", login.subject()),
                    format!(
                        "give the login of {key} a field of its own in the service's Secrets, named as the section"
                    ),
                ))
            }
        }
    }

    /// Returns the options with the password of a login. Its host, port, database and user win over the configuration.
    ///
    /// # Errors
    /// A fault with exit code 78 if neither names a user, or if the file of the authorities would not be read whole.
    pub(crate) fn with_password(login: &Credential<Login>, section: DatabaseSection<'_>) -> Result<Self, Fault> {
        let config = section.config;
        let Some(username) = login.username.as_deref().or(config.username.as_deref()) else {
            return Err(section.name_in(Fault::new(
                Exit::Config,
                "database.username",
                format!("{} is a bare password, and no user name is configured", login.subject()),
                "set database.username, or put {\"username\": …, \"password\": …} at the manager",
            )));
        };
        let options = PgConnectOptions::new_without_pgpass()
            .host(login.host.as_deref().unwrap_or(&config.host))
            .port(login.port.unwrap_or(config.port.get()))
            .database(login.dbname.as_deref().unwrap_or(config.name()))
            .username(username)
            .password(login.password.as_ref().map_or("", ExposeSecret::expose_secret));
        Ok(Self { connection: with_tls(options, section)?, signer: None, is_failure_logged: AtomicBool::default() })
    }

    /// Returns the options with a token for each log-in of this user. Everything comes from the configuration.
    ///
    /// # Errors
    /// As [`with_password`](Self::with_password).
    pub(crate) fn with_tokens(
        username: Option<&str>,
        section: DatabaseSection<'_>,
        aws: &AwsConfig,
        is_strict: bool,
    ) -> Result<Self, Fault> {
        let config = section.config;
        let user = RdsUser {
            host: config.host.to_string(),
            port: config.port.get(),
            name: username.unwrap_or_default().to_owned(),
        };
        let options = PgConnectOptions::new_without_pgpass()
            .host(&user.host)
            .port(user.port)
            .database(config.name())
            .username(&user.name);
        let signer = RdsTokenSigner::new(user, config.region.as_deref(), aws, is_strict);
        Ok(Self {
            connection: with_tls(options, section)?,
            signer: Some(signer),
            is_failure_logged: AtomicBool::default(),
        })
    }

    /// Returns `true` if a token is signed for each log-in.
    pub(super) fn has_tokens(&self) -> bool {
        self.signer.is_some()
    }

    /// Changes the options of the connection.
    pub(super) fn map(self, change: impl FnOnce(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { connection: change(self.connection), ..self }
    }

    /// Logs in once. A token is signed for this log-in alone.
    pub(super) async fn log_in(&self) -> Result<PgConnection, sqlx::Error> {
        let Some(signer) = &self.signer else { return connect(&self.connection).await };
        let token = signer.token().await.map_err(|error| sqlx::Error::Io(io::Error::other(error)))?;
        let options = self.connection.clone().password(token.expose_secret());
        let connected = connect(&options).await;
        match &connected {
            Ok(_) => self.is_failure_logged.store(false, Ordering::Relaxed),
            Err(error) if is_rejected(error) => signer.forget_identity().await,
            Err(_) => (),
        }
        connected
    }

    /// Logs that no token could be signed, if that is the error: once, until a log-in succeeds.
    pub(super) fn log_failure(&self, error: &sqlx::Error) {
        let Some(RdsTokenError { remedy, .. }) = of_token(error) else { return };
        if !self.is_failure_logged.swap(true, Ordering::Relaxed) {
            let reason = reason(error);
            tracing::warn!(reason, remedy, "the pool cannot log in without a token; trying again after a pause");
        }
    }
}

/// Opens a connection.
///
/// For SCRAM, sqlx computes for a millisecond, and gives way to other tasks 819 times on the way. Under load, each time costs
/// a turn of all tasks that are ready. So this gives way once in [`STEPS_OF_A_LOGIN`] times.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connecting = pin!(PgConnection::connect_with(options));
    let connecting = poll_fn(|cx| {
        for _ in 1..STEPS_OF_A_LOGIN {
            if let Poll::Ready(connected) = connecting.as_mut().poll(cx) {
                return Poll::Ready(connected);
            }
        }
        connecting.as_mut().poll(cx)
    });
    // The driver panics if a message is shorter than its kind needs. That must not end whoever logs in.
    let connected = AssertUnwindSafe(connecting).catch_unwind().await;
    connected.unwrap_or_else(|_| Err(sqlx::Error::Protocol("a message of the server is too short".into())))
}

/// Adds the protection of the connection. Through a Unix socket there is none: libpq ignores its mode there too, and
/// the driver would ask a server for TLS that always says no.
///
/// # Errors
/// As [`check_root_cert`].
fn with_tls(options: PgConnectOptions, section: DatabaseSection<'_>) -> Result<PgConnectOptions, Fault> {
    let config = section.config;
    if options.get_host().starts_with('/') {
        return Ok(options.ssl_mode(PgSslMode::Disable));
    }
    let options = options.ssl_mode(match config.tls {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::Allow => PgSslMode::Allow,
        TlsMode::Prefer => PgSslMode::Prefer,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::VerifyCa => PgSslMode::VerifyCa,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    });
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
    use crate::config::settings::DatabaseConfig;
    use std::fs;

    #[test]
    fn a_connection_through_a_unix_socket_has_no_tls() {
        let config = DatabaseConfig { tls_root_cert: Some("/dev/zero".into()), ..DatabaseConfig::default() };
        let section = DatabaseSection { name: None, config: &config, migrations: None };
        let options = PgConnectOptions::new_without_pgpass();
        let through_socket = with_tls(options.clone().host("/run/postgresql"), section).unwrap();
        assert!(matches!(through_socket.get_ssl_mode(), PgSslMode::Disable));
        let fault = with_tls(options.host("db.internal"), section).unwrap_err();
        assert!(fault.problem.contains("it is a device"), "{}", fault.problem);
    }

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
