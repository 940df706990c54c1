//! `audit TARGET… [--expect N] [--ca FILE] [--name HOST] [--since TIME]`: checks that a rotation is complete. Compares the
//! versions that each replica holds with those that the manager has now.
//!
//! ```text
//! URLs, addresses of names ─► /status of each ─► ids ─► versions at the manager ─► table, findings
//! ```
//!
//! It reads no secret's value.

mod clocks;
pub(in crate::cli) mod comparison;
mod different_ids;
mod findings;
mod issuer_keys;
mod leases;
mod other_versions;
pub(crate) mod replica;
mod table;

use self::{comparison::Audit, replica::ReplicaStatus};
use super::{
    admin_listeners::{AdminListeners, address::ReplicaAddress},
    arguments::AuditArguments,
    trust::Connector,
};
use crate::{
    application::Application,
    bootstrap::{self, command_error::CommandError, manager::ManagerSetup},
    config::{Config, ConfigError, layers::Sources, settings::LogFormat},
    exit::{Phase, Report},
    secrets::{id::SecretId, regions::Regions, source::SourceError, version::Versions},
    signals::CommandSignals,
};
use futures_util::{StreamExt, future::join_all, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::Instant;

/// The number of replicas that are asked at the same time.
pub(super) const CONCURRENCY: usize = 32;

/// The time for which a replica that drains is asked again.
const SETTLE_TIME: Duration = Duration::from_secs(2);

pub(super) async fn run<A: Application, M: ManagerSetup<A::Settings>>(
    sources: &Sources,
    manager: M,
    signals: &CommandSignals,
    arguments: AuditArguments,
) -> Result<(), CommandError> {
    let AuditArguments { urls, expect, ca, name, since } = arguments;
    let replicas = AdminListeners::find(&urls, expect, ca.as_deref(), name).await?;
    let config = configure::<A, M>(sources).await?;
    let deadline = Instant::now() + config.secrets.deadline;
    let regions = Arc::new(bootstrap::regions(sources, manager, &config, deadline).await.map_err(failed)?);
    let audit = super::close_after(&regions, signals, audit(&regions, &config, &replicas, since)).await;
    report(&audit)
}

/// Asks each replica, and then the manager.
pub(super) async fn audit<T>(
    regions: &Arc<Regions>,
    config: &Config<T>,
    replicas: &AdminListeners,
    since: Option<OffsetDateTime>,
) -> Audit {
    let statuses = replicas.addresses.iter().map(async |address| {
        let status = settled_status(address, &replicas.tls.connector(address)).await;
        (address.clone(), status)
    });
    let statuses = stream::iter(statuses).buffered(CONCURRENCY).collect().await;
    let audit = compare(regions, config, statuses, since).await;
    Audit { expected: replicas.expected, ..audit }
}

/// Compares these statuses with what the manager has now, whatever the number of replicas.
pub(super) async fn compare<T>(
    regions: &Arc<Regions>,
    config: &Config<T>,
    replicas: Vec<(ReplicaAddress, Result<ReplicaStatus, String>)>,
    since: Option<OffsetDateTime>,
) -> Audit {
    // The manager comes last: if a version becomes current in between, a replica without it counts as behind.
    let deadline = Instant::now() + config.secrets.deadline;
    let manager = versions_at_manager(regions, &replicas, deadline).await;
    let revoked = config.secrets.revoked.clone();
    Audit::new(replicas, manager, regions.clone(), revoked, since)
}

/// Prints an audit.
///
/// # Errors
/// Its findings.
pub(super) fn report(audit: &Audit) -> Result<(), CommandError> {
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

pub(super) fn failed(report: Report) -> CommandError {
    CommandError { report, format: LogFormat::Pretty }
}

/// Reads the configuration. Ignores mistakes outside of `[secrets]`, unless the set-up of the manager needs the rest.
///
/// # Errors
/// If a part is wrong that the command needs.
pub(super) async fn configure<A: Application, M: ManagerSetup<A::Settings>>(
    sources: &Sources,
) -> Result<Config<A::Settings>, CommandError> {
    match bootstrap::read_for_a_command::<A>(sources).await {
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
