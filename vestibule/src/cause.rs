//! The cause of a connection that failed, and what helps against it.
//!
//! Libraries wrap errors in errors, and some hide the one inside. [`RootCause::of`] finds the innermost one that says
//! something. It quotes only errors of the network, of TLS and of the operating system: the text of any other error may
//! have a part of a secret, or of what the other side sent.

use rustls::{AlertDescription, CertificateError};
use sqlx::{
    error::DatabaseError,
    postgres::{PgDatabaseError, PgErrorPosition},
};
use std::{error::Error, fmt, io, time::Duration};

/// The start of the text that the standard library gives a name which does not resolve. It gives no code.
const DOES_NOT_RESOLVE: &str = "failed to lookup address information: ";

/// The start of the texts of hyper-util for a proxy that makes no tunnel. Their type is private.
const NO_TUNNEL: &str = "tunnel error: ";

/// The innermost cause of an error that says something. `Display` writes it for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootCause {
    class: CauseClass,
    text: String,
    /// The host that the connection goes to, if an error on the way is an [`AtHost`].
    host: Option<String>,
}

/// The class of a cause, by what helps against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CauseClass {
    NameDoesNotResolve,
    NobodyListens,
    NoWayThere,
    UnknownIssuer,
    OutsideOfItsDates,
    OtherName,
    OtherCertificateFault,
    WantsClientCertificate,
    NoCommonTls,
    NoTls,
    NoHttp,
    NoTunnel,
    TooManyOpenFiles,
    NoSuchFile,
    Other,
}

/// The other side of a connection. It decides where an authority or an address is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherSide {
    /// The secrets manager, or the platform's identity service.
    Manager,
    /// The secrets manager of `[secrets.vault]`, which has settings for its authority and for a client certificate.
    Vault,
    Database,
    /// A service that an API client calls.
    Api,
    /// The admin listener of a replica.
    AdminListener,
}

/// An error with the host of the connection on which it occurred.
#[derive(Debug, thiserror::Error)]
#[error("connecting to {host} failed")]
pub(crate) struct AtHost {
    pub(crate) host: String,
    pub(crate) source: Box<dyn Error + Send + Sync>,
}

impl RootCause {
    /// Returns the cause of an error.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Self { class: CauseClass::Other, text: "the cause is not known".into(), host: None };
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(AtHost { host, .. }) = error.downcast_ref() {
                cause.host = Some(host.clone());
            }
            if let Some((class, text)) = read(error) {
                (cause.class, cause.text) = (class, text);
            }
            next = match error.downcast_ref::<io::Error>() {
                // `source` passes over the error inside of an I/O error.
                Some(io) => io.get_ref().map(|inner| inner as _),
                None => error.source(),
            };
        }
        cause
    }

    /// Returns the host, if an error on the way names one.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Returns what helps against it, if something does.
    pub(crate) fn remedy(&self, side: OtherSide) -> Option<&'static str> {
        use OtherSide::{AdminListener, Api, Database, Manager, Vault};
        Some(match (self.class, side) {
            (CauseClass::UnknownIssuer, Manager) => {
                "name a file with the certificate of its authority in AWS_CA_BUNDLE, or in SSL_CERT_FILE"
            }
            (CauseClass::UnknownIssuer, Vault) => {
                "name the file with the certificate of its authority in secrets.vault.ca"
            }
            (CauseClass::UnknownIssuer, Api) => {
                "name a file with the certificates of all authorities that are needed, also of this one, in SSL_CERT_FILE"
            }
            (CauseClass::UnknownIssuer, Database) => {
                "name the file with the certificate of its authority in database.tls_root_cert"
            }
            (CauseClass::UnknownIssuer, AdminListener) => {
                "name the file with the certificate of its authority with --ca"
            }
            (CauseClass::NameDoesNotResolve, Database) => "correct database.host, or mend the DNS of this machine",
            (CauseClass::NameDoesNotResolve, _) => "correct the name, or mend the DNS of this machine",
            (CauseClass::NobodyListens, Database) => {
                "check database.host and database.port, and that the server runs; then start again"
            }
            (CauseClass::NobodyListens, _) => "check the host and the port, and that the other side runs",
            (CauseClass::NoWayThere, _) => "check the network in between: route, firewall",
            (CauseClass::OutsideOfItsDates, _) => {
                "compare the dates of its certificate with the clock of this machine; renew the certificate, or set the \
                 clock (NTP)"
            }
            (CauseClass::OtherName, Database) => {
                "use a name that is in its certificate in database.host, or issue the certificate for this name; an IP \
                 address must be in it as an IP address"
            }
            (CauseClass::OtherName, AdminListener) => "name a host that is in its certificate with --name",
            (CauseClass::OtherName, _) => {
                "use a name that is in its certificate, or issue the certificate for this name; an IP address must be in \
                 it as an IP address"
            }
            (CauseClass::OtherCertificateFault, _) => "put another certificate at the other side",
            (CauseClass::WantsClientCertificate, Vault) => {
                "name a certificate that it accepts, and its key, in secrets.vault.client_cert and secrets.vault.client_key"
            }
            (CauseClass::WantsClientCertificate, _) => {
                "accept this service without a client certificate at the other side: it has none"
            }
            (CauseClass::NoCommonTls, _) => "let the other side speak TLS 1.2 or 1.3, with a current cipher suite",
            (CauseClass::NoTls, Database) => "turn TLS on at the server, or check database.port and database.tls",
            (CauseClass::NoTls, _) => "name the port on which the other side speaks TLS, or use http://",
            (CauseClass::NoHttp, _) => "check the port, and if the other side wants https://",
            (CauseClass::NoTunnel, _) => {
                "check the proxy in HTTPS_PROXY, and add this host to NO_PROXY if it needs none"
            }
            (CauseClass::TooManyOpenFiles, _) => "raise the limit of open files (LimitNOFILE=, ulimit -n)",
            (CauseClass::NoSuchFile, Database) => {
                "put the file of database.tls_root_cert there; if database.host is a folder of sockets, check that"
            }
            (CauseClass::NoSuchFile | CauseClass::Other, _) => return None,
        })
    }

    /// Returns the cause and what helps against it, in one line.
    pub(crate) fn with_remedy(&self, side: OtherSide) -> String {
        match self.remedy(side) {
            Some(remedy) => format!("{self}; {remedy}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for RootCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns the class and the text of an error, without the errors that it wraps. `None` if its text says nothing, or must
/// not be shown.
fn read(error: &(dyn Error + 'static)) -> Option<(CauseClass, String)> {
    let text = error.to_string();
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(read_tls(tls));
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return read_io(io);
    }
    if text.starts_with(NO_TUNNEL) {
        return Some((CauseClass::NoTunnel, text.replacen(NO_TUNNEL, "the proxy makes no tunnel: ", 1)));
    }
    // Its text is about the protocol. Those of its causes may be the other side's.
    let http = error.downcast_ref::<hyper::Error>()?;
    let class = if http.is_parse() { CauseClass::NoHttp } else { CauseClass::Other };
    Some((class, text))
}

fn read_io(error: &io::Error) -> Option<(CauseClass, String)> {
    use io::ErrorKind;
    let text = match error.get_ref() {
        // The text of the error without "(os error 111)", which helps nobody.
        None => error.to_string().split(" (os error").next().unwrap_or_default().to_owned(),
        Some(inner) if is_text(inner) => inner.to_string(),
        Some(_) => error.kind().to_string(),
    };
    if let Some(reason) = text.strip_prefix(DOES_NOT_RESOLVE) {
        return Some((CauseClass::NameDoesNotResolve, format!("the name does not resolve: {reason}")));
    }
    let class = match error.kind() {
        ErrorKind::ConnectionRefused => CauseClass::NobodyListens,
        ErrorKind::NotFound => CauseClass::NoSuchFile,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            CauseClass::NoWayThere
        }
        _ if is_out_of_descriptors(error) => CauseClass::TooManyOpenFiles,
        _ => CauseClass::Other,
    };
    // "other error" says nothing.
    if text == ErrorKind::Other.to_string() { None } else { Some((class, text)) }
}

/// Returns `true` if an error is a text that the code of a library has as it is. That type is private, but its `Debug` is
/// that of the text.
pub(crate) fn is_text(error: &(dyn Error + 'static)) -> bool {
    format!("{error:?}") == format!("{:?}", error.to_string())
}

/// Returns `true` if the process, or the machine, has no file descriptor left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let limits = [Errno::MFILE.raw_os_error(), Errno::NFILE.raw_os_error()];
    error.raw_os_error().is_some_and(|code| limits.contains(&code))
}

fn read_tls(error: &rustls::Error) -> (CauseClass, String) {
    use rustls::Error as Tls;
    let class = match error {
        Tls::InvalidCertificate(certificate) => return read_certificate(certificate),
        Tls::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            CauseClass::WantsClientCertificate
        }
        Tls::PeerIncompatible(_)
        | Tls::AlertReceived(
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity,
        ) => CauseClass::NoCommonTls,
        Tls::InvalidMessage(_) => {
            return (CauseClass::NoTls, "the other side does not answer as TLS does".into());
        }
        _ => CauseClass::Other,
    };
    (class, error.to_string())
}

fn read_certificate(error: &CertificateError) -> (CauseClass, String) {
    use CertificateError as Fault;
    let class = match error {
        Fault::UnknownIssuer => {
            return (CauseClass::UnknownIssuer, "its certificate is of an authority that is not trusted".into());
        }
        Fault::ExpiredContext { time, not_after } => {
            let ago = rounded(time.as_secs().saturating_sub(not_after.as_secs()));
            return (
                CauseClass::OutsideOfItsDates,
                format!("its certificate ended {ago} ago, by this machine's clock"),
            );
        }
        Fault::NotValidYetContext { time, not_before } => {
            let ahead = rounded(not_before.as_secs().saturating_sub(time.as_secs()));
            let text = format!("its certificate begins in {ahead}, by this machine's clock");
            return (CauseClass::OutsideOfItsDates, text);
        }
        Fault::Expired | Fault::NotValidYet => CauseClass::OutsideOfItsDates,
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => CauseClass::OtherName,
        _ => CauseClass::OtherCertificateFault,
    };
    (class, format!("its certificate is not accepted: {error}"))
}

/// Returns a time in whole hours, if it is longer than one.
fn rounded(seconds: u64) -> humantime::FormattedDuration {
    let seconds = if seconds > 3600 { seconds - seconds % 3600 } else { seconds };
    humantime::format_duration(Duration::from_secs(seconds))
}

/// Returns an error and its causes in one line. Stops at an error of hyper unless its cause is an I/O error: in HTTP/2 the
/// other side may write any text into the frame that ends a connection.
///
/// Of an answer of the database it has the code and the names, and no text with its message: this may quote a value of the
/// statement (`invalid input value for enum mood: "…"`).
pub(crate) fn reasons(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(answer) = error.downcast_ref::<Box<dyn DatabaseError>>() {
            texts.retain(|text| !text.contains(answer.message()));
            texts.push(names_in(&**answer));
            break;
        }
        let text = error.to_string();
        // Some errors have the text of their cause in their own.
        if !texts.last().is_some_and(|last| last.ends_with(&text)) {
            texts.push(text);
        }
        next = error.source();
        if let Some(cause) = next
            && error.is::<hyper::Error>()
            && !cause.is::<io::Error>()
        {
            break;
        }
    }
    texts.join(": ")
}

/// Returns the code of an answer of the database, and what it names in fields of their own.
fn names_in(answer: &dyn DatabaseError) -> String {
    let mut text = format!("the database answered SQLSTATE {}", answer.code().unwrap_or_default());
    let postgres = answer.try_downcast_ref::<PgDatabaseError>();
    for (name, value) in [
        ("table", answer.table()),
        ("column", postgres.and_then(PgDatabaseError::column)),
        ("data type", postgres.and_then(PgDatabaseError::data_type)),
        ("constraint", answer.constraint()),
        ("routine", postgres.and_then(PgDatabaseError::routine)),
    ] {
        if let Some(value) = value {
            text = format!("{text}, {name} {value}");
        }
    }
    if let Some(PgErrorPosition::Original(position)) = postgres.and_then(PgDatabaseError::position) {
        text = format!("{text}, at character {position} of the statement");
    }
    text
}

#[cfg(test)]
mod tests;
