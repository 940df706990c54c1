//! A log-in: the options of its connection, and the password or the token that it brings.

use super::{
    addresses::{self, FirstAddress},
    error::{is_rejected, of_token, reason},
    raw_log_in,
    section::DatabaseSection,
};
use crate::{
    blocking_reads::FileReads,
    caught::caught_future,
    cause::RootCause,
    config::settings::{AwsConfig, TlsMode},
    credentials::{
        login::{Login, is_for_driver},
        pem,
    },
    exit::{Exit, Fault},
    secrets::{
        aws::rds_token::{RdsTokenError, RdsTokenSigner, RdsUser},
        credential::Credential,
    },
    trust,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use std::{
    borrow::Cow,
    future::poll_fn,
    io::{self, ErrorKind},
    path::PathBuf,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

/// The number of steps for which a log-in goes on before it gives way to other tasks. If it computes, they take half a
/// millisecond. If it waits for the server, each step only finds that there is no answer yet.
const STEPS_OF_A_LOGIN: usize = 256;

/// The options of a connection, and the password that it logs in with.
pub(crate) struct LogInOptions {
    pub(super) connection: PgConnectOptions,
    root_cert: Option<RootCert>,
    password: Password,
    first_address: FirstAddress,
    /// `true` from the log line about a token that could not be signed until a log-in succeeds.
    is_failure_logged: AtomicBool,
}

/// The password of a log-in.
enum Password {
    /// The options of the connection have it.
    InOptions,
    /// The driver refuses it, or the name of its user.
    Raw(SecretString),
    /// A token is signed for each log-in, with IAM.
    Token(Box<RdsTokenSigner>),
}

/// The file of the authorities, `database.tls_root_cert`. Each log-in reads it: the driver would do so on a thread of its own,
/// and each log-in that waits for a file which hangs would keep one.
#[derive(Clone)]
struct RootCert {
    path: PathBuf,
    files: FileReads,
}

impl LogInOptions {
    /// Returns the options for the login of a service: with its password, or with tokens if the section says so. `aws` and
    /// `is_strict` are for the identity that signs them.
    ///
    /// # Errors
    /// As [`with_password`](Self::with_password). A fault with exit code 78 if the login is that of another database, which
    /// logs in otherwise.
    pub(super) async fn of_service(
        login: &Credential<Login>,
        section: DatabaseSection<'_>,
        aws: &AwsConfig,
        is_strict: bool,
        files: &FileReads,
    ) -> Result<Self, Fault> {
        match (section.config.is_iam(), login.has_secret()) {
            (false, true) => Self::with_password(login, section, files).await,
            (true, false) => {
                Self::with_tokens(section.config.username.as_deref(), section, aws, is_strict, files).await
            }
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
    /// A fault with exit code 78 if neither names a user. As [`RootCert::check`].
    pub(crate) async fn with_password(
        login: &Credential<Login>,
        section: DatabaseSection<'_>,
        files: &FileReads,
    ) -> Result<Self, Fault> {
        let config = section.config;
        let Some(username) = login.username.as_ref().or(config.username.as_ref()) else {
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
            .username(username);
        let password = login.password.clone().unwrap_or_default();
        let (options, password) = if username.is_for_driver() && is_for_driver(password.expose_secret()) {
            (options.password(password.expose_secret()), Password::InOptions)
        } else {
            (options, Password::Raw(password))
        };
        Ok(Self { password, ..Self::with_tls(options, section, files).await? })
    }

    /// Returns the options with a token for each log-in of this user. Everything comes from the configuration.
    ///
    /// # Errors
    /// As [`with_password`](Self::with_password).
    pub(crate) async fn with_tokens(
        username: Option<&str>,
        section: DatabaseSection<'_>,
        aws: &AwsConfig,
        is_strict: bool,
        files: &FileReads,
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
        let signer = RdsTokenSigner::new(user, config.region.as_deref(), aws, is_strict, files);
        Ok(Self { password: Password::Token(Box::new(signer)), ..Self::with_tls(options, section, files).await? })
    }

    /// Adds the protection of the connection. Through a Unix socket there is none: libpq ignores its mode there too, and
    /// the driver would ask a server for TLS that always says no.
    ///
    /// # Errors
    /// As [`RootCert::check`].
    async fn with_tls(
        options: PgConnectOptions,
        section: DatabaseSection<'_>,
        files: &FileReads,
    ) -> Result<Self, Fault> {
        let config = section.config;
        let is_socket = options.get_host().starts_with('/');
        let mode = if is_socket { PgSslMode::Disable } else { mode(config.tls) };
        let root_cert = match &config.tls_root_cert {
            Some(path) if !is_socket => Some(RootCert { path: path.clone(), files: files.clone() }),
            _ => None,
        };
        if let Some(root_cert) = &root_cert {
            root_cert.check().await?;
        }
        let connection = options.ssl_mode(mode);
        let password = Password::InOptions;
        let (first_address, is_failure_logged) = Default::default();
        Ok(Self { connection, root_cert, password, first_address, is_failure_logged })
    }

    /// Returns `true` if a token is signed for each log-in.
    pub(super) fn has_tokens(&self) -> bool {
        matches!(self.password, Password::Token(_))
    }

    /// Changes the options of the connection.
    pub(super) fn map(self, change: impl FnOnce(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { connection: change(self.connection), ..self }
    }

    /// Logs in once. A token is signed for this log-in alone. A panic is an error: the driver panics if a message is shorter than its
    /// kind needs, and that must not end whoever logs in.
    pub(super) async fn log_in(&self) -> Result<PgConnection, sqlx::Error> {
        let problem =
            "a message of the server is too short, or the code of the log-in has a bug: see the panic in the log";
        let logged_in = caught_future(self.log_in_uncaught()).await;
        logged_in.unwrap_or_else(|| Err(sqlx::Error::Protocol(problem.into())))
    }

    async fn log_in_uncaught(&self) -> Result<PgConnection, sqlx::Error> {
        let authorities = match &self.root_cert {
            Some(root_cert) => root_cert.read_for(self.connection.get_ssl_mode()).await?,
            None => None,
        };
        if let Password::Raw(password) = &self.password {
            let log_in = async |first| raw_log_in::log_in(&self.connection, authorities, password, first).await;
            return Box::pin(self.first_address.run(log_in)).await;
        }
        // The driver wipes no copy of the password, so the options are copied only if they change.
        let mut options = Cow::Borrowed(&self.connection);
        if let Some(pem) = authorities {
            options = Cow::Owned(options.into_owned().ssl_root_cert_from_pem(pem));
        }
        let connect =
            async |options: &_| self.first_address.run(async |first| self.connect(options, first).await).await;
        let Password::Token(signer) = &self.password else { return connect(&options).await };
        let token = signer.token().await.map_err(|error| sqlx::Error::Io(io::Error::other(error)))?;
        let connected = connect(&options.into_owned().password(token.text.expose_secret())).await;
        match &connected {
            Ok(_) => self.is_failure_logged.store(false, Ordering::Relaxed),
            Err(error) if is_rejected(error) => signer.doubt_identity(&token).await,
            Err(_) => (),
        }
        connected
    }

    /// Opens a connection.
    ///
    /// For SCRAM, sqlx computes for a millisecond, and gives way to other tasks 819 times on the way. Under load, each time
    /// costs a turn of all tasks that are ready. So this gives way once in [`STEPS_OF_A_LOGIN`] times.
    async fn connect(&self, options: &PgConnectOptions, first: usize) -> Result<PgConnection, sqlx::Error> {
        if first > 0 {
            // In a box, because the compiler gives up on futures that are nested more deeply.
            match Box::pin(addresses::connect_from(first, options)).await {
                Some(connected) => return connected,
                None => self.first_address.reset(),
            }
        }
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

    /// Logs that no token could be signed, if that is the error: once, until a log-in succeeds.
    pub(super) fn log_failure(&self, error: &sqlx::Error) {
        let Some(RdsTokenError { remedy, .. }) = of_token(error) else { return };
        if !self.is_failure_logged.swap(true, Ordering::Relaxed) {
            let reason = reason(error);
            tracing::warn!(reason, remedy, "the pool cannot log in without a token; trying again after a pause");
        }
    }
}

/// Returns the driver's mode.
fn mode(tls: TlsMode) -> PgSslMode {
    match tls {
        TlsMode::Disable => PgSslMode::Disable,
        TlsMode::Allow => PgSslMode::Allow,
        TlsMode::Prefer => PgSslMode::Prefer,
        TlsMode::Require => PgSslMode::Require,
        TlsMode::VerifyCa => PgSslMode::VerifyCa,
        TlsMode::VerifyFull => PgSslMode::VerifyFull,
    }
}

impl RootCert {
    /// Checks that the driver will see every certificate of the file: it leaves out what it cannot read. A log-in reports a
    /// file that is not there or does not answer, and is repeated.
    ///
    /// # Errors
    /// A fault with exit code 78 if a part of the file would be left out.
    async fn check(&self) -> Result<(), Fault> {
        let remedy = "correct the file: a PEM file with the certificates of authorities";
        let fault = |problem| Err(Fault::new(Exit::Config, self.subject(), problem, remedy));
        let file = match self.files.read_bytes(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::InvalidInput => return fault(error.to_string()),
            Err(_) => return Ok(()),
        };
        let seen = CertificateDer::pem_slice_iter(&file).filter(Result::is_ok).count();
        let problem = match trust::authorities_in(&pem::text_of(&file)) {
            Ok(all) if all.len() == seen => return Ok(()),
            Ok(_) => "a newline is missing between two of its certificates".to_owned(),
            Err(problem) => problem,
        };
        fault(problem)
    }

    /// Returns the file, if the mode verifies the server's certificate.
    ///
    /// # Errors
    /// An error of input and output if the file cannot be read now.
    async fn read_for(&self, mode: PgSslMode) -> Result<Option<Vec<u8>>, sqlx::Error> {
        if !matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
            return Ok(None);
        }
        match self.files.read_bytes(&self.path).await {
            Ok(pem) => Ok(Some(pem)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(error.into()),
            Err(error) => {
                let problem = format!("{}: {}", self.subject(), RootCause::of(&error));
                Err(sqlx::Error::Io(io::Error::other(problem)))
            }
        }
    }

    fn subject(&self) -> String {
        format!("database.tls_root_cert = {}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::settings::DatabaseConfig, resources::database::error::transient};
    use std::fs;

    #[tokio::test]
    async fn a_connection_through_a_unix_socket_has_no_tls() {
        let config = DatabaseConfig { tls_root_cert: Some("/dev/zero".into()), ..DatabaseConfig::default() };
        let section = DatabaseSection { name: None, config: &config, migrations: None };
        let options = PgConnectOptions::new_without_pgpass();
        let with_tls =
            async |host| LogInOptions::with_tls(options.clone().host(host), section, &FileReads::default()).await;
        let through_socket = with_tls("/run/postgresql").await.unwrap();
        assert!(matches!(through_socket.connection.get_ssl_mode(), PgSslMode::Disable));
        let fault = with_tls("db.internal").await.err().unwrap();
        assert!(fault.problem.contains("it is a device"), "{}", fault.problem);
    }

    #[tokio::test]
    async fn a_file_of_authorities_must_be_one_that_the_driver_reads_whole() {
        let authority = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem();
        let (one, other) = (authority("one"), authority("other"));
        let path = std::env::temp_dir().join(format!("authorities-{}.pem", uuid::Uuid::new_v4()));
        let root_cert = RootCert { path: path.clone(), files: FileReads::default() };
        let in_latin1 = |text: &str| [b"# Autorit\xe9\n", text.as_bytes()].concat();
        for (file, problem) in [
            (format!("{one}{other}").into(), None),
            (format!("# the first\n{one}\n{other}").into(), None),
            (in_latin1(&format!("{one}{other}")), None),
            (format!("{}{other}", one.trim()).into(), Some("a newline is missing")),
            (in_latin1(&format!("{}{other}", one.trim())), Some("a newline is missing")),
            (format!("{one}{}", other.replacen("-----END", "----END", 1)).into(), Some("certificates in PEM")),
            (b"nothing".to_vec(), Some("certificates in PEM")),
        ] {
            fs::write(&path, &file).unwrap();
            let fault = root_cert.check().await.err();
            match (problem, &fault) {
                (None, None) => (),
                (Some(problem), Some(fault)) => assert!(fault.problem.contains(problem), "{}", fault.problem),
                _ => panic!("{}", String::from_utf8_lossy(&file)),
            }
        }
        fs::remove_file(&path).unwrap();
        assert!(root_cert.check().await.is_ok(), "a log-in reports it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_in_waits_for_the_file_of_authorities_only_if_it_needs_it_and_not_for_long() {
        let path = std::env::temp_dir().join(format!("authorities-{}.pem", uuid::Uuid::new_v4()));
        let root_cert = RootCert { path: path.clone(), files: FileReads::default() };
        let error = root_cert.read_for(PgSslMode::VerifyFull).await.unwrap_err();
        assert!(matches!(&error, sqlx::Error::Io(error) if error.kind() == ErrorKind::NotFound), "{error}");
        fs::write(&path, b"# M\xfcller\n").unwrap();
        assert!(root_cert.read_for(PgSslMode::VerifyFull).await.is_ok(), "a comment may have any bytes");

        fs::write(&path, "nothing").unwrap();
        let _hanging = root_cert.files.of(&path).hang();
        assert!(root_cert.check().await.is_ok(), "a log-in reports it");
        let error = root_cert.read_for(PgSslMode::VerifyCa).await.unwrap_err();
        let reason = reason(&error);
        assert!(reason.contains(&format!("{}: it did not answer within 2 s", path.display())), "{reason}");
        assert!(transient(&error), "the log-in is repeated");
        assert!(root_cert.read_for(PgSslMode::Require).await.is_ok());
        fs::remove_file(&path).unwrap();
    }
}
