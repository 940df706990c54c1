//! The comparison of what the replicas hold with what the manager has.

use super::{
    issuer_keys,
    other_versions::{VersionsBeside, versions_beside},
    replica::{ReplicaAuthentication, ReplicaCredential, ReplicaStatus},
    table::Table,
};
use crate::{
    cli::admin_listeners::address::ReplicaAddress,
    secrets::{
        id::{SecretId, VersionId},
        regions::Regions,
        source::SourceError,
        version::{Stage, Versions},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use time::OffsetDateTime;

/// The answers of the replicas and of the manager.
pub(in crate::cli) struct Audit {
    /// The replicas in the order of the command line, each with its status or the reason why there is none.
    pub(super) replicas: Vec<(ReplicaAddress, Result<ReplicaStatus, String>)>,
    /// The versions of each secret: the current one and those with another label.
    pub(super) manager: BTreeMap<SecretId, Result<Versions, SourceError>>,
    pub(super) regions: Arc<Regions>,
    /// The expected number of different replicas. `None` if any number is right.
    pub(super) expected: Option<usize>,
    /// `secrets.revoked` of this command's configuration.
    pub(super) revoked: BTreeSet<VersionId>,
    /// The time after which each credential with a lease must have been loaded.
    pub(super) since: Option<OffsetDateTime>,
    pub(super) in_use_beside: VersionsBeside,
}

/// The verdict on a credential that a replica holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Current,
    /// The replica holds the pending version of a rotation that has not ended.
    Pending,
    Behind,
    /// The replica holds the current version, and verifies with another one that the manager has dropped.
    Dropped,
    /// The replica holds the current version, and lacks another one that other replicas verify with.
    Lacks,
    /// The replica holds a version that is revoked.
    Revoked,
    /// The lease of the version has ended.
    Ended,
    /// The version has a lease, and was loaded before `--since`.
    LoadedBefore,
    /// The manager did not give the versions.
    Unknown,
}

impl Audit {
    /// Returns the audit of these answers, for any number of replicas.
    pub(super) fn new(
        replicas: Vec<(ReplicaAddress, Result<ReplicaStatus, String>)>,
        manager: BTreeMap<SecretId, Result<Versions, SourceError>>,
        regions: Arc<Regions>,
        revoked: BTreeSet<VersionId>,
        since: Option<OffsetDateTime>,
    ) -> Self {
        let in_use_beside = versions_beside(&replicas);
        Self { replicas, manager, regions, expected: None, revoked, since, in_use_beside }
    }

    /// Returns the audit of replicas with these statuses, which nobody has compared with a manager.
    #[cfg(test)]
    pub(super) fn of(statuses: Vec<ReplicaStatus>) -> Self {
        let address = |position: usize| ReplicaAddress::parse(&format!("10.0.0.{position}:9090")).expect("an address");
        let replicas: Vec<_> =
            statuses.into_iter().enumerate().map(|(position, status)| (address(position), Ok(status))).collect();
        let (expected, regions) = (Some(replicas.len()), Arc::new(Regions::of(crate::testing::MemoryManager::new())));
        Self { expected, ..Self::new(replicas, BTreeMap::new(), regions, BTreeSet::new(), None) }
    }

    /// Returns a row per replica and credential.
    pub(super) fn table(&self) -> Table<8> {
        let head = ["REPLICA", "CREDENTIAL", "HELD", "STAGE", "CURRENT", "SINCE", "DRAINING", "VERDICT"];
        let mut rows = vec![head.map(str::to_owned)];
        for (address, status) in &self.replicas {
            match status {
                Ok(status) => {
                    rows.extend(status.credentials.iter().map(|held| self.row(address, status, held)));
                    let iam = status.iam_databases.iter().map(|database| &*database.name);
                    rows.extend(
                        iam.map(|name| {
                            [&*address.to_string(), name, "-", "-", "-", "-", "-", "iam"].map(str::to_owned)
                        }),
                    );
                    rows.extend(status.authentication.iter().map(|held| self.row_of_issuer_keys(address, held)));
                }
                Err(_) => {
                    rows.push([&address.to_string(), "-", "-", "-", "-", "-", "-", "unreachable"].map(str::to_owned));
                }
            }
        }
        Table(rows)
    }

    fn row(&self, address: &ReplicaAddress, status: &ReplicaStatus, held: &ReplicaCredential) -> [String; 8] {
        let verdict = match self.verdict(held) {
            Verdict::Current if !status.draining.is_empty() => "draining",
            Verdict::Current => "current",
            Verdict::Pending => "pending",
            Verdict::Behind | Verdict::LoadedBefore => "behind",
            Verdict::Dropped => "dropped",
            Verdict::Lacks => "lacks",
            Verdict::Revoked => "revoked",
            Verdict::Ended => "ended",
            Verdict::Unknown => "unknown",
        };
        let current = match (&held.lease, self.versions(held)) {
            (Some(_), _) => "own",
            (None, Some(versions)) => versions[&Stage::Current].as_str(),
            (None, None) => "?",
        };
        let draining = if status.draining.is_empty() { "-".into() } else { status.draining_generations() };
        let (name, version, stage) = (held.name.as_str(), held.version.as_str(), held.stage.as_str());
        [&address.to_string(), name, version, stage, current, &held.loaded_at(), &draining, verdict].map(str::to_owned)
    }

    fn row_of_issuer_keys(&self, address: &ReplicaAddress, held: &ReplicaAuthentication) -> [String; 8] {
        let newest = self.newest_keys(&held.issuer).map_or("?", |newest| newest.version.as_str());
        let (fetched, verdict) = (held.fetched_at(), self.keys_verdict(held).word());
        [&address.to_string(), issuer_keys::NAME, &held.version, "-", newest, &fetched, "-", verdict].map(str::to_owned)
    }

    /// Returns the versions that the manager has of this credential, if it gave them.
    pub(super) fn versions(&self, held: &ReplicaCredential) -> Option<&Versions> {
        self.manager.get(&held.id)?.as_ref().ok()
    }

    pub(super) fn verdict(&self, held: &ReplicaCredential) -> Verdict {
        if held.versions().any(|version| self.revoked.iter().any(|revoked| revoked.as_str() == version)) {
            return Verdict::Revoked;
        }
        if let Some(lease) = &held.lease {
            return self.verdict_on_lease(held, lease);
        }
        let Some(versions) = self.versions(held) else { return Verdict::Unknown };
        let is_at = |stage| versions.get(&stage).is_some_and(|version| version.as_str() == held.version);
        if is_at(Stage::Current) {
            self.verdict_on_other_versions(held, versions)
        } else if is_at(Stage::Pending) {
            Verdict::Pending
        } else {
            Verdict::Behind
        }
    }

    /// Returns the replicas that answered.
    pub(super) fn reachable(&self) -> impl Iterator<Item = (&ReplicaAddress, &ReplicaStatus)> {
        self.replicas.iter().filter_map(|(address, status)| Some((address, status.as_ref().ok()?)))
    }
}
