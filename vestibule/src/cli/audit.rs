//! `audit URL… [--expect N]`: is the rotation complete? What each replica holds, beside what the manager has now.
//!
//! ```text
//! URLs ─► /status of each ─► ids ─► versions at the manager ─► table, findings
//! ```
//!
//! Reads no value of a secret.

mod findings;
mod replica;
mod table;

use super::trust;
use crate::{
    Service,
    bootstrap::{self, Failed},
    config::{Config, Format, Sources, Unusable},
    exit::{Exit, Fault, Phase, Report},
    secrets::{Replicas, SecretId, SecretSet, SourceError, Versions},
};
use findings::Audit;
use futures_util::{StreamExt, future::join_all, stream};
use replica::{Address, Status};
use rustls::pki_types::ServerName;
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    path::Path,
};
use tokio::time::Instant;

/// How many replicas are asked at a time.
const CONCURRENCY: usize = 32;

pub(super) async fn run<S: Service>(
    sources: &Sources,
    urls: &[String],
    expect: Option<NonZeroUsize>,
    ca: Option<&Path>,
    name: Option<ServerName<'static>>,
) -> Result<(), Failed> {
    let addresses = addresses(urls)?;
    let config = configure::<S>(sources)?;
    let deadline = Instant::now() + config.secrets.deadline;
    let told = |report| Failed { report, format: Format::Pretty };
    let trust = match ca {
        Some(file) => trust::of_file(file),
        None if addresses.iter().any(Address::is_https) => crate::trust::of_platform(),
        None => Ok(crate::trust::of_nobody()),
    };
    let connector = trust::connector(trust.map_err(|fault| told(Report::of(Phase::Command, fault)))?, name);
    let source = bootstrap::source(sources, &config, deadline).await.map_err(told)?;

    let asked = addresses.into_iter().map(async |address| {
        let said = address.ask(connector.clone()).await;
        (address, said)
    });
    let replicas: Vec<_> = stream::iter(asked).buffered(CONCURRENCY).collect().await;
    // After the replicas: a version that became current in between must not pass as held.
    let deadline = Instant::now() + config.secrets.deadline;
    let manager = standing(&source, &replicas, deadline).await;

    let expected = expect.map_or(urls.len(), NonZeroUsize::get);
    let audit = Audit { replicas, manager, expected, revoked: config.secrets.revoked };
    say!("{}\n{}", audit.table(), audit.summary());
    Report::unless_clean(Phase::Command, audit.faults()).map_err(told)
}

/// Every mistake in the URLs, by their place: they may hold what must not be shown.
fn addresses(urls: &[String]) -> Result<Vec<Address>, Failed> {
    let (mut addresses, mut faults) = (Vec::new(), Vec::new());
    for (place, url) in urls.iter().enumerate() {
        match Address::parse(url) {
            Ok(address) => addresses.push(address),
            Err(problem) => faults.push(Fault::new(
                Exit::Usage,
                format!("URL {}", place + 1),
                problem,
                "give the admin listener of a replica, as http://10.0.0.7:9090 or https://10.0.0.7:9090",
            )),
        }
    }
    let report = Report::unless_clean(Phase::Command, faults);
    report.map(|()| addresses).map_err(|report| Failed { report, format: Format::Pretty })
}

/// Only mistakes in how to reach the manager count.
fn configure<S: Service>(sources: &Sources) -> Result<Config<S::Settings>, Failed> {
    match Config::load(sources, S::APP.name, &S::Secrets::wanted()) {
        Ok(config) => Ok(config),
        Err(Unusable { secrets: Some(secrets), .. }) => Ok(Config { secrets: *secrets, ..Config::default() }),
        Err(Unusable { report, telemetry, .. }) => Err(Failed { report, format: telemetry.format }),
    }
}

/// What the manager has of each secret that a replica names: the current version at least, or why it is not known.
async fn standing(
    source: &Replicas,
    replicas: &[(Address, Result<Status, String>)],
    deadline: Instant,
) -> BTreeMap<SecretId, Result<Versions, SourceError>> {
    let held = replicas.iter().filter_map(|(_, said)| said.as_ref().ok()).flat_map(|status| &status.credentials);
    let ids: BTreeSet<_> = held.map(|held| held.id.clone()).collect();
    let asked = ids.into_iter().map(|id| async move {
        let versions = source.versions(&id, deadline).await;
        (id, versions)
    });
    join_all(asked).await.into_iter().collect()
}

/// What the manager did not say, and why.
fn fault(id: &SecretId, error: &SourceError) -> Fault {
    let (exit, remedy) = match error {
        SourceError::Missing(_) => {
            (Exit::Missing, "create or restore the secret, or correct its id where the replicas are configured")
        }
        SourceError::Denied(_) => (
            Exit::Denied,
            "allow secretsmanager:DescribeSecret on this id to whoever audits; check the id too: a wrong one may be \
             answered like this",
        ),
        SourceError::NoIdentity(_) => (Exit::Denied, "audit with an identity: a role of the pod, task or instance"),
        SourceError::Unanswered(_) => (
            Exit::Deadline,
            "check the way to the manager (route, firewall, VPC endpoint); raise secrets.deadline if it is only slow",
        ),
        SourceError::Unavailable(_) | SourceError::Malformed(_) => (
            Exit::Unavailable,
            "check the way to the manager (Region, endpoint, network) and its health; then audit again",
        ),
    };
    Fault::new(exit, format!("secret {id}"), error.to_string(), remedy)
}
