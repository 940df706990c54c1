//! What an audit finds: how each credential of each replica stands, and what is not as it should be.

use super::{
    fault,
    replica::{Address, ReplicaCredential, ReplicaStatus},
    table::Table,
};
use crate::{
    exit::{Exit, Fault},
    secrets::{
        id::{SecretId, VersionId},
        regions::Regions,
        source::SourceError,
        version::{Stage, Versions},
    },
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};
use uuid::Uuid;

/// What the replicas and the manager said.
pub(super) struct Audit {
    /// In the order of the command line, each with what it says of itself, or why it does not.
    pub(super) replicas: Vec<(Address, Result<ReplicaStatus, String>)>,
    /// What is current, and what else has a label; or why it is not known.
    pub(super) manager: BTreeMap<SecretId, Result<Versions, SourceError>>,
    pub(super) regions: Regions,
    /// How many different replicas there are.
    pub(super) expected: usize,
    /// `secrets.revoked`, as it is configured here.
    pub(super) revoked: BTreeSet<VersionId>,
}

/// How a credential that a replica holds stands to what the manager has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Current,
    /// The version of a rotation that has not ended.
    Pending,
    Behind,
    /// It holds a version that is revoked.
    Revoked,
    /// The manager did not say.
    Unknown,
}

/// What keeps an audit from being clean: what is so, where, and what to do.
struct Finding {
    what: &'static str,
    at: Vec<String>,
    problem: Cow<'static, str>,
    remedy: Cow<'static, str>,
}

impl Audit {
    pub(super) fn table(&self) -> Table<8> {
        let head = ["REPLICA", "CREDENTIAL", "HELD", "STAGE", "CURRENT", "SINCE", "DRAINING", "VERDICT"];
        let rows = self.replicas.iter().flat_map(|(address, said)| match said {
            Err(_) => vec![[&address.to_string(), "-", "-", "-", "-", "-", "-", "unreachable"].map(str::to_owned)],
            Ok(status) => status.credentials.iter().map(|held| self.row(address, status, held)).collect(),
        });
        Table([head.map(str::to_owned)].into_iter().chain(rows).collect())
    }

    fn row(&self, address: &Address, status: &ReplicaStatus, held: &ReplicaCredential) -> [String; 8] {
        let verdict = match self.verdict(held) {
            Verdict::Current if !status.draining.is_empty() => "draining",
            Verdict::Current => "current",
            Verdict::Pending => "pending",
            Verdict::Behind => "behind",
            Verdict::Revoked => "revoked",
            Verdict::Unknown => "unknown",
        };
        let current = self.versions(held).map_or("?", |versions| versions[&Stage::Current].as_str());
        let draining = if status.draining.is_empty() { "-".into() } else { status.older() };
        let (name, version, stage) = (held.name.as_str(), held.version.as_str(), held.stage.as_str());
        [&address.to_string(), name, version, stage, current, &held.since(), &draining, verdict].map(str::to_owned)
    }

    fn versions(&self, held: &ReplicaCredential) -> Option<&Versions> {
        self.manager.get(&held.id)?.as_ref().ok()
    }

    fn verdict(&self, held: &ReplicaCredential) -> Verdict {
        if held.versions().any(|version| self.revoked.iter().any(|revoked| revoked.as_str() == version)) {
            return Verdict::Revoked;
        }
        let Some(versions) = self.versions(held) else { return Verdict::Unknown };
        let is_at = |stage| versions.get(&stage).is_some_and(|version| version.as_str() == held.version);
        if is_at(Stage::Current) {
            Verdict::Current
        } else if is_at(Stage::Pending) {
            Verdict::Pending
        } else {
            Verdict::Behind
        }
    }

    /// Those that answered.
    fn statuses(&self) -> impl Iterator<Item = (&Address, &ReplicaStatus)> {
        self.replicas.iter().filter_map(|(address, said)| Some((address, said.as_ref().ok()?)))
    }

    fn findings(&self) -> Vec<Finding> {
        let with = |verdict| {
            let credentials = move |status: &ReplicaStatus| {
                let held = status.credentials.iter().filter(|held| self.verdict(held) == verdict);
                held.map(|held| held.name.clone()).collect::<Vec<_>>().join(", ")
            };
            let named = self.statuses().map(|(address, status)| (address, credentials(status)));
            named
                .filter(|(_, names)| !names.is_empty())
                .map(|(address, names)| format!("{address} ({names})"))
                .collect()
        };
        let draining = self.statuses().filter(|(_, status)| !status.draining.is_empty());
        let silent = self.replicas.iter().filter_map(|(address, said)| Some((address, said.as_ref().err()?)));
        let current = self.regions.stage_label(Stage::Current);
        let mut findings = vec![
            Finding {
                what: "revoked",
                at: with(Verdict::Revoked),
                problem: "a version is held that secrets.revoked names here".into(),
                remedy: "give the replica this configuration, and reload it (`reload --wait` beside it); rotate first where \
                         that version is still the current one".into(),
            },
            Finding {
                what: "behind",
                at: with(Verdict::Behind),
                problem: "a version is held that is not the current one".into(),
                remedy: "reload (`reload --wait` beside the replica), or wait for its next poll; where it stays behind, \
                         last_reload in its /status says why".into(),
            },
            Finding {
                what: "pending",
                at: with(Verdict::Pending),
                problem: format!("the version of a rotation that has not ended is held, while {current} is another one").into(),
                remedy: format!("let the rotation end, or end it: move {current}; then audit again").into(),
            },
            Finding {
                what: "draining",
                at: draining.map(|(address, status)| format!("{address} (generation {})", status.older())).collect(),
                problem: "requests or tasks still hold older credentials".into(),
                remedy: "wait until they have ended, and audit again; a restart of the replica ends them".into(),
            },
            Finding {
                what: "unreachable",
                at: silent.map(|(address, why)| format!("{address} ({why})")).collect(),
                problem: "what is held there is not known".into(),
                remedy: "check the address, the network and the replica; then audit again".into(),
            },
        ];
        findings.extend(self.instances());
        findings.retain(|finding| !finding.at.is_empty());
        findings
    }

    /// Whether the replicas that answered are as many as expected. A load balancer answers for one of many.
    fn instances(&self) -> Vec<Finding> {
        let mut instances: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
        for (address, status) in self.statuses() {
            instances.entry(status.instance).or_default().push(address.to_string());
        }
        let silent = self.replicas.len() - self.statuses().count();
        // Each that did not answer may be another one; it is told of anyway.
        if (instances.len()..=instances.len() + silent).contains(&self.expected) {
            return Vec::new();
        }
        let count = format!("{}, where {} are expected", instances.len(), self.expected);
        let same = instances.into_values().filter(|addresses| addresses.len() > 1).map(|addresses| Finding {
            what: "the same instance",
            at: addresses,
            problem: "one replica answers at each of these".into(),
            remedy: "give the address of each replica itself: a load balancer answers for one of many".into(),
        });
        let all = Finding {
            what: "different instances",
            at: vec![count],
            problem: "the audit does not cover the replicas that there are".into(),
            remedy: "name the admin listener of each replica, or correct --expect".into(),
        };
        same.chain([all]).collect()
    }

    pub(super) fn summary(&self) -> String {
        let is_done = |status: &ReplicaStatus| {
            status.draining.is_empty() && status.credentials.iter().all(|held| self.verdict(held) == Verdict::Current)
        };
        let done = self.statuses().filter(|(_, status)| is_done(status)).count();
        let unknown = self.manager.iter().filter(|(_, versions)| versions.is_err());
        let rest = self
            .findings()
            .into_iter()
            .map(|finding| format!("; {}: {}", finding.what, finding.at.join(", ")))
            .chain(unknown.map(|(id, _)| format!("; not known: what is current of {id}")));
        let all = self.replicas.len();
        format!("{done} of {all} replicas hold what is current, and nothing older{}", rest.collect::<String>())
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let unknown =
            self.manager.iter().filter_map(|(id, versions)| Some(fault(id, versions.as_ref().err()?, &self.regions)));
        let findings = self.findings().into_iter().map(|Finding { what, at, problem, remedy }| {
            Fault::new(Exit::Unavailable, format!("{what}: {}", at.join(", ")), problem, remedy)
        });
        unknown.chain(findings).collect()
    }
}

impl ReplicaStatus {
    /// The generations that drain.
    fn older(&self) -> String {
        self.draining.iter().map(|draining| draining.generation.to_string()).collect::<Vec<_>>().join(",")
    }
}
