//! `health [live|ready]`: for images without a shell or curl.

use crate::{
    Service,
    bootstrap::Failed,
    config::{Config, Format, Sources, Unusable},
    exit::{Exit, Fault, Phase, Report},
    secrets::SecretSet,
};
use axum::body::Body;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// Docker's default for a health check is 30 s; a probe that hangs that long has failed.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Probe {
    /// The process lives.
    Live,
    /// Requests should come.
    Ready,
}

pub(super) async fn run<S: Service>(sources: &Sources, probe: Probe) -> Result<(), Failed> {
    // The service goes on serving while its files are half edited, and must not be found unhealthy for it.
    let admin = match Config::<S::Settings>::load(sources, S::APP.name, &S::Secrets::wanted()) {
        Ok(config) => config.admin,
        Err(Unusable { admin: Some(admin), .. }) => admin,
        Err(Unusable { report, telemetry, .. }) => return Err(Failed { report, format: telemetry.format }),
    };
    let address = reachable(admin.listen);
    let failed = |problem: String, remedy: &str| {
        let fault = Fault::new(Exit::Unavailable, format!("admin listener {address}"), problem, remedy);
        Failed { report: Report::of(Phase::Command, fault), format: Format::Pretty }
    };
    let path = match probe {
        Probe::Live => "/livez",
        Probe::Ready => "/readyz",
    };
    let uri = format!("http://{address}{path}").parse().expect("an address and a path make a URI");
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let asking = async {
        let answer = client.get(uri).await.ok()?;
        let status = answer.status();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), 64 * 1024).await.ok()?;
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    };
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(Some((status, body))) if status.is_success() => {
            say!("{body}");
            Ok(())
        }
        Ok(Some((status, body))) => Err(failed(
            format!("it answers {status}: {body}"),
            "see the reasons in its answer, and the log of the service",
        )),
        Ok(None) | Err(_) => Err(failed(
            "it does not answer".into(),
            "start the service; check that admin.listen here is the address it was started with",
        )),
    }
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
