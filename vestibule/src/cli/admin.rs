//! The admin listener of a running service, as the commands see it.

use super::trust::{self, Connector};
use crate::{
    application::Application,
    bootstrap::Failed,
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

/// Docker's default for a health check is 30 s; a question that hangs that long has failed.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Where the service of this configuration listens for probes and people.
pub(super) struct AdminClient {
    address: SocketAddr,
    /// As it is configured now, and the other way: the service may not have taken up a change of `admin.tls`.
    schemes: [&'static str; 2],
}

impl AdminClient {
    /// The service goes on serving while its files are half edited: only mistakes that concern the address count.
    pub(super) fn of<A: Application>(sources: &Sources) -> Result<Self, Failed> {
        let admin = match Config::<A::Settings>::load(sources, A::PACKAGE.name, &A::Secrets::specs()) {
            Ok(config) => config.admin,
            Err(ConfigError { admin: Some(admin), .. }) => admin,
            Err(ConfigError { report, telemetry, .. }) => return Err(Failed { report, format: telemetry.format }),
        };
        let schemes = if admin.tls { ["https", "http"] } else { ["http", "https"] };
        Ok(Self { address: reachable(admin.listen), schemes })
    }

    /// The answer, with its status.
    pub(super) async fn get(&self, path: &str) -> Result<(StatusCode, String), Failed> {
        let [now, other] = self.schemes.map(async |scheme| {
            let uri = format!("{scheme}://{}{path}", self.address).parse().expect("these make a URI");
            ask(uri, trust::anyone()).await
        });
        let answer = now.await;
        let answer = match &answer {
            Ok((status, _)) if *status != StatusCode::BAD_REQUEST => answer,
            _ => other.await.or(answer),
        };
        answer.map_err(|silence| {
            self.failed(silence.to_string(), "start the service; check that [admin] here is what it was started with")
        })
    }

    /// A failure of the service behind the listener.
    pub(super) fn failed(&self, problem: String, remedy: &str) -> Failed {
        failed(Exit::Unavailable, format!("admin listener {}", self.address), problem, remedy)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("it does not answer: {0}")]
pub(super) struct AdminUnreachable(String);

/// Asks a listener, for 3 s at most: the answer, with its status.
pub(super) async fn ask(uri: Uri, connector: Connector) -> Result<(StatusCode, String), AdminUnreachable> {
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let asking = async {
        let answer = client.get(uri).await.map_err(|error| root(&error))?;
        let status = answer.status();
        let body =
            axum::body::to_bytes(Body::new(answer.into_body()), 1024 * 1024).await.map_err(|error| root(&error))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(TIMEOUT, asking).await.unwrap_or_else(|_| Err(AdminUnreachable("the time is up".into())))
}

/// The innermost cause says what the others only wrap.
fn root(error: &(dyn Error + 'static)) -> AdminUnreachable {
    let cause = std::iter::successors(Some(error), |error| (*error).source()).last();
    AdminUnreachable(cause.unwrap_or(error).to_string())
}

/// A failure of a command.
pub(super) fn failed(exit: Exit, subject: String, problem: String, remedy: &str) -> Failed {
    let report = Report::of(Phase::Command, Fault::new(exit, subject, problem, remedy));
    Failed { report, format: LogFormat::Pretty }
}

/// What listens on every address is asked on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
