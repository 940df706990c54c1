//! The errors of the database, and what they mean for us.

use super::{lease::PooledConnection, pool::Pool};
use crate::{
    cause::{OtherSide, RootCause},
    exit::{Exit, Fault},
    secrets::aws::rds_token::RdsTokenError,
};
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use std::sync::Arc;

/// The damage that an error does to its connection: the connection is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// This connection is broken, or ends.
    Connection,
    /// All connections are as this one: a prepared statement no longer fits the schema, or the server became read-only.
    All,
    /// The role may have lost its rights, or may be gone. The login is checked.
    Login,
}

impl Damage {
    /// Returns the damage that an error does, if it does any.
    pub(super) fn of(error: &sqlx::Error) -> Option<Self> {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                return Some(Self::Connection);
            }
            sqlx::Error::Database(_) => (),
            _ => return None,
        }
        let code = sqlstate(error)?;
        match code.as_str() {
            "0A000" if is_of_cached_plan(error) => Some(Self::All),
            // A statement that a proxy has lost, and a server that became read-only.
            "26000" | "25006" => Some(Self::All),
            _ if ends_session(error) => Some(Self::Connection),
            "42501" | "42704" => Some(Self::Login),
            "57P01" | "57P02" | "57P03" | "25P03" => Some(Self::Connection),
            code if code.starts_with("08") => Some(Self::Connection),
            _ => None,
        }
    }

    /// Tells the pool of the damage. Returns `true` if the connection must be closed.
    pub(super) fn tell(self, pool: &Arc<Pool>, connection: &PooledConnection) -> bool {
        let login = &connection.login;
        match self {
            Self::Connection => true,
            Self::All => {
                pool.renew(connection.opened_at);
                true
            }
            // A right that the service never had is no reason to log in again each time.
            Self::Login if login.is_suspect() => {
                pool.check_login();
                true
            }
            Self::Login => login.breaker.rejection().is_some(),
        }
    }
}

/// Returns `true` if a prepared statement no longer fits the schema. The server translates its messages, and never the names
/// of its functions (`RevalidateCachedQuery` in plancache.c); a proxy may leave them out.
fn is_of_cached_plan(error: &sqlx::Error) -> bool {
    of_server(error).is_some_and(|error| {
        error.routine() == Some("RevalidateCachedQuery") || error.message().contains("cached plan")
    })
}

/// Returns `true` if the server ends the session after this error. Its SQLSTATE does not say so: 40001 ends a transaction, or
/// the session of a standby.
fn ends_session(error: &sqlx::Error) -> bool {
    of_server(error).is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

fn of_server(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Returns the SQLSTATE of an error that the database reported.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Returns `true` if the database rejects the login: SQLSTATE class 28. Too many connections (53300) is no rejection. PgBouncer
/// has the code of every other failure for a wrong password (08P01): "SASL authentication failed". A text that goes on is about
/// its own login at the server.
pub(super) fn is_rejected(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    match error.code().as_deref() {
        Some("28P01" | "28000") => true,
        Some("08P01") => error.message().ends_with("authentication failed"),
        _ => false,
    }
}

/// Returns `true` if the database ended the transaction because of another one: a serialization failure, or a deadlock.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("40001" | "40P01"))
}

/// Returns `true` if the server, the role, or PgBouncer (`max_client_conn`) has no connection left.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    error.code().as_deref() == Some("53300") || error.message().contains("no more connections allowed")
}

/// Returns `true` if a later attempt may succeed: no connection, starting up or shutting down, no connection left, a
/// lock or a deadlock. PgBouncer has one code, 08P01, for all that goes wrong before a server answers.
pub(crate) fn transient(error: &sqlx::Error) -> bool {
    if refuses_startup_options(error) {
        return false;
    }
    match (error, sqlstate(error).as_deref()) {
        (sqlx::Error::Io(_), _) => true,
        (_, Some("40P01" | "53300" | "55P03" | "57014" | "57P01" | "57P02" | "57P03")) => true,
        (_, Some(code)) => code.starts_with("08"),
        (_, None) => false,
    }
}

/// The end of PostgreSQL's texts for a connection without TLS that `pg_hba.conf` does not allow. A server before 14 says
/// `SSL off`.
const WANTS_TLS: [&str; 2] = ["no encryption", "SSL off"];

/// Our addition to these texts.
const NEEDS_TLS: &str = "the server wants TLS, so set database.tls";

/// The driver's text for a server that has no TLS. It has no type of its own.
pub(super) const HAS_NO_TLS: &str = "server does not support TLS";

/// The file with the rules of a server: who may come from where, and how. Its name is in all texts about it.
const RULES: &str = "pg_hba.conf";

/// Returns `true` if the server only lets connections with TLS in. It says so with the code of a rejected login.
fn wants_tls(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    error.message().contains(RULES) && WANTS_TLS.iter().any(|end| error.message().ends_with(end))
}

/// Returns the actions that help if the rules of the server are why it rejects a login: another password does not. `reason`
/// is that of the rejection.
pub(in crate::resources) fn remedy_of_rules(reason: &str) -> Option<&'static str> {
    if !reason.contains(RULES) {
        return None;
    }
    Some(if reason.ends_with(NEEDS_TLS) {
        "set database.tls, or `tls` in the section of this database, to a mode with TLS, such as \"verify-full\""
    } else {
        "let this user log in from this address to this database, in pg_hba.conf of the server; or correct the user, the \
         database or the address that the text names"
    })
}

/// Returns `true` if a proxy before the database refuses the startup parameter `options`: RDS Proxy does not support
/// "command-line options", and PgBouncer names the parameter.
fn refuses_startup_options(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    ["command-line options", "unsupported startup parameter"].iter().any(|part| error.message().contains(part))
}

/// Returns the error of a token that could not be signed, if that is why the log-in failed.
pub(super) fn of_token(error: &sqlx::Error) -> Option<&RdsTokenError> {
    match error {
        sqlx::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// Returns the reason in a text for people. It quotes no password.
pub(crate) fn reason(error: &sqlx::Error) -> String {
    if let Some(error) = of_token(error) {
        return error.to_string();
    }
    match error {
        sqlx::Error::Database(answer) if wants_tls(error) => {
            format!("{}: {NEEDS_TLS}", answer.message())
        }
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => format!("connecting failed: {}", RootCause::of(error)),
        sqlx::Error::Tls(error) if error.to_string() == HAS_NO_TLS => "the server has no TLS".into(),
        sqlx::Error::Tls(error) => format!("TLS could not be negotiated: {}", RootCause::of(&**error)),
        _ => "the server does not answer as PostgreSQL does".into(),
    }
}

/// Returns the fault that an error of the database means for a start.
pub(crate) fn fault(error: &sqlx::Error) -> Fault {
    if let Some(RdsTokenError { exit, remedy, .. }) = of_token(error) {
        return Fault::new(*exit, "database", reason(error), remedy.clone());
    }
    let cause = match error {
        sqlx::Error::Io(error) => Some(RootCause::of(error)),
        sqlx::Error::Tls(error) => Some(RootCause::of(&**error)),
        _ => None,
    };
    let remedy_of_cause = cause.and_then(|cause| cause.remedy(OtherSide::Database));
    let (exit, remedy) = match (error, sqlstate(error).as_deref()) {
        (_, Some("28P01" | "28000" | "42501")) => {
            (Exit::Denied, "give the login's role the right, or put another login at the manager")
        }
        (_, Some("40P01" | "55P03" | "57014")) => {
            (Exit::Unavailable, "find out who holds the lock (pg_locks, pg_stat_activity), and try again")
        }
        (sqlx::Error::Database(_), _) if refuses_startup_options(error) => (
            Exit::Unavailable,
            "set database.startup_options to false, and both timeouts for the role (ALTER ROLE … SET statement_timeout = …)",
        ),
        (_, Some("3D000")) => (
            Exit::Unavailable,
            "create the database, or correct its name: `dbname` of the login's secret, or else database.name",
        ),
        (sqlx::Error::Tls(error), _) if error.to_string() == HAS_NO_TLS => {
            (Exit::Unavailable, "turn TLS on at the server, or set database.tls to what the server offers")
        }
        (sqlx::Error::Tls(_) | sqlx::Error::Configuration(_), _) => {
            (Exit::Unavailable, "check database.tls and database.tls_root_cert against what the server offers")
        }
        _ => (Exit::Unavailable, "check database.host and database.port, and the server's health; then start again"),
    };
    Fault::new(exit, "database", reason(error), remedy_of_cause.unwrap_or(remedy))
}

/// Returns the fault of a database that did not answer before the deadline.
pub(crate) fn unanswered() -> Fault {
    Fault::new(
        Exit::Deadline,
        "database",
        "it did not answer before the deadline",
        "check database.host and database.port, and the network in between (route, firewall); then start again",
    )
}
