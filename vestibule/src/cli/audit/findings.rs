//! The findings of an audit: its last line, and its report.

use super::{
    comparison::{Audit, Verdict},
    issuer_keys::KeysVerdict,
    replica::ReplicaStatus,
};
use crate::{
    exit::{Exit, Fault},
    secrets::{
        id::SecretId,
        regions::Regions,
        source::{Operation, SourceError},
        version::Stage,
    },
};
use std::{borrow::Cow, collections::BTreeMap};
use uuid::Uuid;

/// A reason why the rotation is not complete, with the places at which it was found.
struct Finding {
    title: &'static str,
    places: Vec<String>,
    problem: Cow<'static, str>,
    remedy: Cow<'static, str>,
}

impl Audit {
    /// Returns the last line of the output.
    pub(super) fn summary(&self) -> String {
        let all = self.replicas.len();
        let done = self.reachable().filter(|(_, status)| self.is_done(status)).count();
        let mut summary =
            format!("{done} of {all} replicas hold the current version of every credential, and nothing older");
        for Finding { title, places, .. } in self.findings() {
            summary.push_str(&format!("; {title}: {}", places.join(", ")));
        }
        for (id, _) in self.unknown() {
            summary.push_str(&format!("; unknown: the current version of {id}"));
        }
        summary
    }

    /// Returns a fault per finding, and per secret whose current version is not known.
    pub(super) fn faults(&self) -> Vec<Fault> {
        self.faults_of(self.findings())
    }

    /// Returns the faults of the versions that replicas hold, whatever else there is to find.
    pub(in crate::cli) fn version_faults(&self) -> Vec<Fault> {
        let of_leases = self.lease_findings();
        self.faults_of(self.version_findings().into_iter().chain(of_leases).collect())
    }

    fn faults_of(&self, findings: Vec<Finding>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (id, error) in self.unknown() {
            faults.push(unknown_fault(id, error, &self.regions));
        }
        for Finding { title, places, problem, remedy } in findings {
            if places.is_empty() {
                continue;
            }
            let subject = format!("{title}: {}", places.join(", "));
            faults.push(Fault::new(Exit::Unavailable, subject, problem, remedy));
        }
        faults
    }

    fn is_done(&self, status: &ReplicaStatus) -> bool {
        status.draining.is_empty()
            && status.credentials.iter().all(|held| self.verdict(held) == Verdict::Current)
            && status.authentication.iter().all(|held| self.keys_verdict(held) == KeysVerdict::Current)
    }

    /// Returns the secrets whose versions the manager did not give, with its errors.
    fn unknown(&self) -> impl Iterator<Item = (&SecretId, &SourceError)> {
        self.manager.iter().filter_map(|(id, versions)| Some((id, versions.as_ref().err()?)))
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::from(self.version_findings());
        findings.extend(self.other_findings());
        findings.extend(self.lease_findings());
        findings.extend(self.instance_findings());
        findings.retain(|finding| !finding.places.is_empty());
        findings
    }

    fn version_findings(&self) -> [Finding; 5] {
        let current = self.regions.stage_label(Stage::Current);
        [
            Finding {
                title: "revoked",
                places: self.replicas_with(Verdict::Revoked),
                problem: "the replica holds a version that secrets.revoked names in this configuration".into(),
                remedy: "give the replica this configuration and reload it (`reload --wait` beside it); if that \
                         version is still the current one, rotate first"
                    .into(),
            },
            Finding {
                title: "behind",
                places: self.replicas_with(Verdict::Behind),
                problem: "the replica holds a version that is not the current one".into(),
                remedy: "reload it (`reload --wait` beside it), or wait for its next poll; if it stays behind, \
                         last_reload in its /status says why"
                    .into(),
            },
            Finding {
                title: "dropped versions",
                places: self.replicas_with_dropped_versions(),
                problem: "the replica still verifies with a version that the manager has dropped".into(),
                remedy: "reload it (`reload --wait` beside it), or wait for its next poll".into(),
            },
            Finding {
                title: "missing versions",
                places: self.replicas_that_lack_versions(),
                problem: "other replicas verify with a version that the manager has, and this one does not".into(),
                remedy:
                    "reload it (`reload --wait` beside it), or wait for its next poll; if its secrets.revoked names \
                         that version, give the others the same list, and reload them"
                        .into(),
            },
            Finding {
                title: "pending",
                places: self.replicas_with(Verdict::Pending),
                problem: format!(
                    "the replica holds the pending version of a rotation that has not ended; {current} is another one"
                )
                .into(),
                remedy: format!("wait for the end of the rotation, or end it: move {current}; then audit again").into(),
            },
        ]
    }

    fn other_findings(&self) -> [Finding; 6] {
        [
            Finding {
                title: "different ids",
                places: self.different_ids(),
                problem: "the replicas take one credential by different ids, so they may not hold the same".into(),
                remedy: "give all of them the same release, [secrets.ids], secrets.prefix and auth of databases, and \
                         reload them; then audit again"
                    .into(),
            },
            Finding {
                title: "other keys of the issuer",
                places: self.replicas_with_other_keys(),
                problem: "the issuer of tokens has other keys now, as a replica says that fetched them later".into(),
                remedy: "wait for the next fetch of the replica (auth.refresh_every), or restart it; then audit again"
                    .into(),
            },
            Finding {
                title: "old keys of the issuer",
                places: self.replicas_with_old_keys(),
                problem: "the replica could not fetch the keys of the issuer of tokens for 20 min".into(),
                remedy: "see its log, and check its network to the issuer".into(),
            },
            Finding {
                title: "different issuers",
                places: self.replicas_of_several_issuers(),
                problem: "the replicas do not accept the tokens of one issuer".into(),
                remedy: "give all of them the same [auth], and reload them".into(),
            },
            Finding {
                title: "draining",
                places: self.draining_replicas(),
                problem: "something of the replica still uses older credentials".into(),
                remedy: "wait until they have ended, and audit again; a restart of the replica ends them".into(),
            },
            Finding {
                title: "unreachable",
                places: self.unreachable_replicas(),
                problem: "the credentials that this replica holds are not known".into(),
                remedy: "check the address, the network and the replica; then audit again".into(),
            },
        ]
    }

    fn lease_findings(&self) -> [Finding; 5] {
        [
            Finding {
                title: "ended",
                places: self.replicas_with(Verdict::Ended),
                problem: "the lease of the version held has ended, and the replica has no successor".into(),
                remedy:
                    "last_reload in its /status says why; put that right, and reload it (`reload --wait` beside it)"
                        .into(),
            },
            Finding {
                title: "loaded before --since",
                places: self.replicas_with(Verdict::LoadedBefore),
                problem: "the replica still has the credential that the manager made for it before that time".into(),
                remedy:
                    "reload it (`reload --wait` beside it), which replaces each credential whose lease was revoked; \
                         if one stays, its lease was not"
                        .into(),
            },
            Finding {
                title: "different clocks",
                places: self.replicas_with_other_clocks(),
                problem:
                    "the clock of the replica differs from that of this machine, so --since may mean another time to it"
                        .into(),
                remedy:
                    "set the clock that is wrong (NTP), and audit again: the times of a replica follow its clock, so \
                         it needs no reload"
                        .into(),
            },
            Finding {
                title: "the same user",
                places: self.shared_users(),
                problem:
                    "the manager makes a credential for each process alone, and several replicas have this one: it \
                          ends for all of them with the first"
                        .into(),
                remedy:
                    "have the replicas ask the manager itself: a proxy or an agent in between gives the same answer \
                         to all of them"
                        .into(),
            },
            Finding {
                title: "nothing to compare with --since",
                places: if self.has_no_lease() { vec!["no credential has a lease".into()] } else { Vec::new() },
                problem: "--since is for credentials with a lease, and no replica has one".into(),
                remedy: "check the URLs, or leave --since out: each version is compared with the manager's".into(),
            },
        ]
    }

    /// Returns the replicas that hold credentials with this verdict, with the names of these credentials.
    fn replicas_with(&self, verdict: Verdict) -> Vec<String> {
        let mut replicas = Vec::new();
        for (address, status) in self.reachable() {
            let held = status.credentials.iter().filter(|held| self.verdict(held) == verdict);
            let names: Vec<_> = held.map(|held| held.name.as_str()).collect();
            if !names.is_empty() {
                replicas.push(format!("{address} ({})", names.join(", ")));
            }
        }
        replicas
    }

    fn draining_replicas(&self) -> Vec<String> {
        let mut replicas = Vec::new();
        for (address, status) in self.reachable() {
            if !status.draining.is_empty() {
                replicas.push(format!("{address} ({})", status.draining_reasons()));
            }
        }
        replicas
    }

    fn unreachable_replicas(&self) -> Vec<String> {
        let mut replicas = Vec::new();
        for (address, status) in &self.replicas {
            if let Err(reason) = status {
                replicas.push(format!("{address} ({reason})"));
            }
        }
        replicas
    }

    /// Returns findings if the number of different replicas is not the expected one. A load balancer passes each
    /// request to any one replica, so two of its URLs may lead to the same one.
    fn instance_findings(&self) -> Vec<Finding> {
        let mut instances: BTreeMap<Uuid, Vec<String>> = BTreeMap::new();
        for (address, status) in self.reachable() {
            instances.entry(status.instance).or_default().push(address.to_string());
        }
        let unreachable = self.replicas.len() - self.reachable().count();
        // Each unreachable address may be a further replica. Another finding names it already.
        let (fewest, most) = (instances.len(), instances.len() + unreachable);
        let Some(expected) = self.expected else { return Vec::new() };
        if (fewest..=most).contains(&expected) {
            return Vec::new();
        }
        let mut findings = Vec::new();
        for addresses in instances.into_values() {
            if addresses.len() > 1 {
                findings.push(Finding {
                    title: "the same instance",
                    places: addresses,
                    problem: "one replica answers at all of these addresses".into(),
                    remedy: "give the address of each replica itself: a load balancer passes a request to any of them"
                        .into(),
                });
            }
        }
        findings.push(Finding {
            title: "different instances",
            places: vec![format!("{fewest}, but {expected} are expected")],
            problem: "the audit covers fewer or more replicas than expected".into(),
            remedy: "name the admin listener of each replica, or correct --expect".into(),
        });
        findings
    }
}

/// Returns the fault of a secret whose versions the manager did not give.
fn unknown_fault(id: &SecretId, error: &SourceError, regions: &Regions) -> Fault {
    let exit = match error {
        SourceError::Malformed(_) => Exit::Unavailable,
        error => error.exit(),
    };
    let remedy = regions.remedy(id, error, Operation::ReadVersions);
    Fault::new(exit, format!("secret {id}"), error.to_string(), remedy)
}
