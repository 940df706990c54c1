//! `audit URL… [--expect N] [--ca FILE] [--name HOST] [--since TIME]`: checks that a rotation is complete. Compares the
//! versions that each replica holds with those that the manager has now.
//!
//! ```text
//! URLs ─► /status of each ─► ids ─► versions at the manager ─► table, findings
//! ```
//!
//! It reads no secret's value.

pub(crate) mod address;
mod comparison;
mod findings;
mod issuer_keys;
mod leases;
pub(crate) mod replica;
mod table;

use self::{address::ReplicaAddress, comparison::Audit, replica::ReplicaStatus};
use super::{
    arguments::AuditArguments,
    trust::{self as cli_trust, Connector},
};
use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    config::{Config, ConfigError, layers::Sources, settings::LogFormat},
    exit::{Exit, Fault, Phase, Report},
    secrets::{id::SecretId, regions::Regions, set::SecretSet, source::SourceError, version::Versions},
    signals::CommandSignals,
    trust,
};
use futures_util::{StreamExt, future::join_all, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// The number of replicas that are asked at the same time.
const CONCURRENCY: usize = 32;

/// The time for which a replica that drains is asked again.
const SETTLE_TIME: Duration = Duration::from_secs(2);

pub(super) async fn run<A: Application, M: ManagerSetup<A::Settings>>(
    sources: &Sources,
    manager: M,
    signals: &CommandSignals,
    arguments: AuditArguments,
) -> Result<(), CommandError> {
    let AuditArguments { urls, expect, ca, name, since } = arguments;
    let addresses = parse_addresses(&urls)?;
    let config = configure::<A, M>(sources)?;
    let deadline = Instant::now() + config.secrets.deadline;
    let tls = match ca {
        Some(file) => cli_trust::of_file(&file),
        None if addresses.iter().any(ReplicaAddress::is_https) => trust::platform_authorities(),
        None => Ok(trust::no_authorities()),
    };
    let tls = tls.map_err(|fault| failed(Report::of(Phase::Command, fault)))?;
    let connector = cli_trust::connector(tls, name);
    let regions = bootstrap::regions(sources, manager, &config, deadline).await.map_err(failed)?;

    let compare = async {
        let statuses = addresses.into_iter().map(async |address| {
            let status = settled_status(&address, &connector).await;
            (address, status)
        });
        let replicas: Vec<_> = stream::iter(statuses).buffered(CONCURRENCY).collect().await;
        // The manager comes last: if a version becomes current in between, a replica without it counts as behind.
        let deadline = Instant::now() + config.secrets.deadline;
        let manager = versions_at_manager(&regions, &replicas, deadline).await;
        (replicas, manager)
    };
    let (replicas, manager) = super::close_after(&regions, signals, compare).await;

    let expected = match expect {
        Some(expected) => expected.get(),
        None => urls.len(),
    };
    let audit = Audit { replicas, manager, regions, expected, revoked: config.secrets.revoked, since };
    say!("{}\n{}", audit.table(), audit.summary());
    Report::unless_clean(Phase::Command, audit.faults()).map_err(failed)
}

/// Returns the status of a replica. Asks again for a moment while an older generation drains: idle connections of a
/// replaced login are open for up to a second after a reload.
async fn settled_status(address: &ReplicaAddress, connector: &Connector) -> Result<ReplicaStatus, String> {
    let deadline = Instant::now() + SETTLE_TIME;
    loop {
        let status = address.status(connector.clone()).await?;
        if status.draining.is_empty() || Instant::now() >= deadline {
            return Ok(status);
        }
        tokio::time::sleep(SETTLE_TIME / 8).await;
    }
}

fn failed(report: Report) -> CommandError {
    CommandError { report, format: LogFormat::Pretty }
}

/// Parses the URLs.
///
/// # Errors
/// Every mistake. A fault names a URL by its position and does not quote it, because it may contain a password.
fn parse_addresses(urls: &[String]) -> Result<Vec<ReplicaAddress>, CommandError> {
    let (mut addresses, mut faults) = (Vec::new(), Vec::new());
    for (position, url) in urls.iter().enumerate() {
        match ReplicaAddress::parse(url) {
            Ok(address) => addresses.push(address),
            Err(problem) => faults.push(Fault::new(
                Exit::Usage,
                format!("URL {}", position + 1),
                problem,
                "give the admin listener of a replica, as http://10.0.0.7:9090 or https://10.0.0.7:9090",
            )),
        }
    }
    Report::unless_clean(Phase::Command, faults).map_err(failed)?;
    Ok(addresses)
}

/// Reads the configuration. Ignores mistakes outside of `[secrets]`, unless the set-up of the manager needs the rest.
///
/// # Errors
/// If a part is wrong that the command needs.
fn configure<A: Application, M: ManagerSetup<A::Settings>>(
    sources: &Sources,
) -> Result<Config<A::Settings>, CommandError> {
    match Config::load(sources, A::PACKAGE.name, &A::Secrets::specs()) {
        Ok(config) => Ok(config),
        Err(ConfigError { secrets: Some(secrets), .. }) if !M::READS_ALL_SETTINGS => {
            Ok(Config { secrets: *secrets, ..Config::default() })
        }
        Err(ConfigError { report, telemetry, .. }) => Err(CommandError { report, format: telemetry.format }),
    }
}

/// Returns the versions that the manager has of each secret that a replica names. They include the current one. A secret
/// with a lease has none, because the manager makes another one at each read.
async fn versions_at_manager(
    regions: &Regions,
    replicas: &[(ReplicaAddress, Result<ReplicaStatus, String>)],
    deadline: Instant,
) -> BTreeMap<SecretId, Result<Versions, SourceError>> {
    let mut ids = BTreeSet::new();
    for (_, status) in replicas {
        if let Ok(status) = status {
            let compared = status.credentials.iter().filter(|held| held.lease.is_none());
            ids.extend(compared.map(|held| held.id.clone()));
        }
    }
    let queries = ids.into_iter().map(|id| async move {
        let versions = regions.versions(&id, deadline).await;
        (id, versions)
    });
    join_all(queries).await.into_iter().collect()
}
