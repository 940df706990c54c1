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
    application::Application,
    bootstrap::{self, Failed},
    config::{Config, ConfigError, layers::Sources, settings::LogFormat},
    exit::{Exit, Fault, Phase, Report},
    secrets::{
        id::SecretId,
        regions::Regions,
        set::SecretSet,
        source::{Operation, SourceError},
        version::Versions,
    },
};
use findings::Audit;
use futures_util::{StreamExt, future::join_all, stream};
use replica::{Address, ReplicaStatus};
use rustls::pki_types::ServerName;
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    path::Path,
};
use tokio::time::Instant;

/// How many replicas are asked at a time.
const CONCURRENCY: usize = 32;

pub(super) async fn run<A: Application>(
    sources: &Sources,
    urls: &[String],
    expect: Option<NonZeroUsize>,
    ca: Option<&Path>,
    name: Option<ServerName<'static>>,
) -> Result<(), Failed> {
    let addresses = addresses(urls)?;
    let config = configure::<A>(sources)?;
    let deadline = Instant::now() + config.secrets.deadline;
    let told = |report| Failed { report, format: LogFormat::Pretty };
    let trust = match ca {
        Some(file) => trust::of_file(file),
        None if addresses.iter().any(Address::is_https) => crate::trust::platform_authorities(),
        None => Ok(crate::trust::no_authorities()),
    };
    let connector = trust::connector(trust.map_err(|fault| told(Report::of(Phase::Command, fault)))?, name);
    let regions = bootstrap::regions(sources, &config, deadline).await.map_err(told)?;

    let asked = addresses.into_iter().map(async |address| {
        let said = address.ask(connector.clone()).await;
        (address, said)
    });
    let replicas: Vec<_> = stream::iter(asked).buffered(CONCURRENCY).collect().await;
    // After the replicas: a version that became current in between must not pass as held.
    let deadline = Instant::now() + config.secrets.deadline;
    let manager = versions_at_manager(&regions, &replicas, deadline).await;

    let expected = expect.map_or(urls.len(), NonZeroUsize::get);
    let audit = Audit { replicas, manager, regions, expected, revoked: config.secrets.revoked };
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
    report.map(|()| addresses).map_err(|report| Failed { report, format: LogFormat::Pretty })
}

/// Only mistakes in how to reach the manager count.
fn configure<A: Application>(sources: &Sources) -> Result<Config<A::Settings>, Failed> {
    match Config::load(sources, A::PACKAGE.name, &A::Secrets::specs()) {
        Ok(config) => Ok(config),
        Err(ConfigError { secrets: Some(secrets), .. }) => Ok(Config { secrets: *secrets, ..Config::default() }),
        Err(ConfigError { report, telemetry, .. }) => Err(Failed { report, format: telemetry.format }),
    }
}

/// What the manager has of each secret that a replica names: the current version at least, or why it is not known.
async fn versions_at_manager(
    regions: &Regions,
    replicas: &[(Address, Result<ReplicaStatus, String>)],
    deadline: Instant,
) -> BTreeMap<SecretId, Result<Versions, SourceError>> {
    let held = replicas.iter().filter_map(|(_, said)| said.as_ref().ok()).flat_map(|status| &status.credentials);
    let ids: BTreeSet<_> = held.map(|held| held.id.clone()).collect();
    let asked = ids.into_iter().map(|id| async move {
        let versions = regions.versions(&id, deadline).await;
        (id, versions)
    });
    join_all(asked).await.into_iter().collect()
}

/// Returns the fault of a secret of which the manager did not say what is current.
fn fault(id: &SecretId, error: &SourceError, regions: &Regions) -> Fault {
    let exit = match error {
        SourceError::Malformed(_) => Exit::Unavailable,
        error => error.exit(),
    };
    Fault::new(exit, format!("secret {id}"), error.to_string(), regions.remedy(error, Operation::ReadVersions))
}
