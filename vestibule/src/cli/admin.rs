//! A client of the admin listener of a running service.

use super::trust::{self, Connector};
use crate::{
    application::Application,
    bootstrap::command_error::CommandError,
    cause::{OtherSide, RootCause},
    config::{Config, ConfigError, layers::Sources, settings::LogFormat},
    exit::{Exit, Fault, Phase, Report},
    secrets::set::SecretSet,
};
use axum::{
    body::Body,
    http::{StatusCode, Uri},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// The timeout of a request. It is shorter than the timeout of a health check, which is 30 s by default in Docker.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The largest answer, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// A client of the admin listener of this configuration.
pub(super) struct AdminClient {
    address: SocketAddr,
    /// The scheme of this configuration, then the other one: a change of `admin.tls` may not be in effect yet.
    schemes: [&'static str; 2],
}

impl AdminClient {
    /// Reads the configuration. Ignores mistakes outside of `[admin]`, because the service goes on serving while its
    /// files are half edited.
    ///
    /// # Errors
    /// If `[admin]` is wrong.
    pub(super) fn of<A: Application>(sources: &Sources) -> Result<Self, CommandError> {
        let admin = match Config::<A::Settings>::load(sources, A::PACKAGE.name, &A::Secrets::specs()) {
            Ok(config) => config.admin,
            Err(ConfigError { admin: Some(admin), .. }) => admin,
            Err(ConfigError { report, telemetry, .. }) => {
                return Err(CommandError { report, format: telemetry.format });
            }
        };
        let schemes = if admin.tls { ["https", "http"] } else { ["http", "https"] };
        Ok(Self { address: reachable(admin.listen), schemes })
    }

    /// Gets a path. Returns the answer's status and body.
    ///
    /// # Errors
    /// If the listener answers over neither scheme.
    pub(super) async fn get(&self, path: &str) -> Result<(StatusCode, String), CommandError> {
        let [configured, other] = self.schemes;
        let answer = match self.get_over(configured, path).await {
            Ok((status, body)) if status != StatusCode::BAD_REQUEST => Ok((status, body)),
            // A listener that uses TLS answers plain HTTP with 400.
            first => match self.get_over(other, path).await {
                Ok(answer) => Ok(answer),
                Err(_) => first,
            },
        };
        answer.map_err(|unreachable| {
            let remedy =
                "start the service, or check that [admin] in this configuration is what the service was started with";
            self.error(unreachable.to_string(), remedy)
        })
    }

    async fn get_over(&self, scheme: &str, path: &str) -> Result<(StatusCode, String), AdminUnreachable> {
        let uri = format!("{scheme}://{}{path}", self.address).parse().expect("these make a URI");
        get(uri, trust::accept_any_certificate()).await
    }

    /// Returns the error of a command that the service behind the listener makes fail.
    pub(super) fn error(&self, problem: String, remedy: &str) -> CommandError {
        command_error(Exit::Unavailable, format!("admin listener {}", self.address), problem, remedy)
    }
}

/// An admin listener that does not answer.
#[derive(Debug, thiserror::Error)]
#[error("it does not answer: {0}")]
pub(super) struct AdminUnreachable(String);

/// Gets a URI, for 3 s at most. Returns the answer's status and body.
///
/// # Errors
/// If there is no answer.
pub(super) async fn get(uri: Uri, connector: Connector) -> Result<(StatusCode, String), AdminUnreachable> {
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let request = async {
        let answer = client.get(uri).await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let body =
            axum::body::to_bytes(Body::new(answer.into_body()), MAX_BODY).await.map_err(|error| unreachable(&error))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(result) => result,
        Err(_) => Err(AdminUnreachable(format!("timeout after {} s", TIMEOUT.as_secs()))),
    }
}

fn unreachable(error: &(dyn Error + 'static)) -> AdminUnreachable {
    AdminUnreachable(RootCause::of(error).with_remedy(OtherSide::AdminListener))
}

/// Returns the error of a command.
pub(super) fn command_error(exit: Exit, subject: String, problem: String, remedy: &str) -> CommandError {
    let report = Report::of(Phase::Command, Fault::new(exit, subject, problem, remedy));
    CommandError { report, format: LogFormat::Pretty }
}

/// Returns the address to connect to. A listener on all addresses is reachable at this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
