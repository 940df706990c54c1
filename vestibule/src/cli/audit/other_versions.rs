//! The versions that a replica uses beside the version in use: keys that only verify.

use super::{
    comparison::{Audit, Verdict},
    replica::{ReplicaCredential, ReplicaStatus},
};
use crate::{
    cli::admin_listeners::address::ReplicaAddress,
    secrets::{
        id::{SecretId, VersionId},
        version::Versions,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// The versions of each credential that some replica uses beside its version in use, by its name and its id. Several
/// credentials may come from one secret, and only some of their kinds use other versions.
pub(super) type VersionsBeside = BTreeMap<(String, SecretId), BTreeSet<String>>;

/// Returns the versions of each credential that some replica uses beside its version in use.
pub(super) fn versions_beside(replicas: &[(ReplicaAddress, Result<ReplicaStatus, String>)]) -> VersionsBeside {
    let mut in_use = VersionsBeside::new();
    for (_, status) in replicas {
        let Ok(status) = status else { continue };
        for held in &status.credentials {
            in_use.entry(held.name_and_id()).or_default().extend(held.others().map(str::to_owned));
        }
    }
    in_use
}

impl Audit {
    /// Returns the verdict on a credential whose version in use is the current one.
    pub(super) fn verdict_on_other_versions(&self, held: &ReplicaCredential, at_manager: &Versions) -> Verdict {
        if !dropped(held, at_manager).is_empty() {
            Verdict::Dropped
        } else if !self.lacking(held, at_manager).is_empty() {
            Verdict::Lacks
        } else {
            Verdict::Current
        }
    }

    /// Returns the replicas that verify with versions that the manager has dropped, with these versions.
    pub(super) fn replicas_with_dropped_versions(&self) -> Vec<String> {
        self.replicas_with_versions(Verdict::Dropped, dropped)
    }

    /// Returns the replicas that lack versions that other replicas verify with, with these versions.
    pub(super) fn replicas_that_lack_versions(&self) -> Vec<String> {
        self.replicas_with_versions(Verdict::Lacks, |held, at_manager| self.lacking(held, at_manager))
    }

    fn replicas_with_versions<'a>(
        &'a self,
        verdict: Verdict,
        versions: impl Fn(&'a ReplicaCredential, &'a Versions) -> Vec<&'a str>,
    ) -> Vec<String> {
        let mut replicas = Vec::new();
        for (address, status) in self.reachable() {
            let mut names = Vec::new();
            for held in &status.credentials {
                if self.verdict(held) == verdict
                    && let Some(at_manager) = self.versions(held)
                {
                    names.push(format!("{} {}", held.name, versions(held, at_manager).join(" and ")));
                }
            }
            if !names.is_empty() {
                replicas.push(format!("{address} ({})", names.join(", ")));
            }
        }
        replicas
    }

    /// Returns the versions that the manager has and another replica verifies with, and this one does not hold. A manager
    /// may have further versions that no replica needs, such as the previous one of a login.
    fn lacking<'a>(&self, held: &ReplicaCredential, at_manager: &'a Versions) -> Vec<&'a str> {
        let Some(in_use) = self.in_use_beside.get(&held.name_and_id()) else { return Vec::new() };
        let unrevoked = at_manager.values().filter(|version| !self.revoked.contains(version)).map(VersionId::as_str);
        let needed = unrevoked.filter(|version| in_use.contains(*version));
        needed.filter(|needed| held.versions().all(|version| version != *needed)).collect()
    }
}

/// Returns the versions that this credential verifies with, and that the manager has at no stage.
fn dropped<'a>(held: &'a ReplicaCredential, at_manager: &Versions) -> Vec<&'a str> {
    held.others().filter(|other| at_manager.values().all(|version| version.as_str() != *other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::version::Stage;

    /// Returns the status of a replica that signs with `current` and verifies with `others` too.
    fn replica(current: &str, others: serde_json::Value) -> ReplicaStatus {
        ReplicaStatus::with_credentials(serde_json::json!([{
            "name": "signing", "id": "svc/signing", "version": current, "stage": "current", "others": others,
            "loaded": "2026-01-02T03:04:05Z",
        }]))
    }

    /// Returns the audit of these replicas with a manager that has these versions.
    fn audit(replicas: Vec<ReplicaStatus>, at_manager: &[(Stage, &str)]) -> Audit {
        let mut audit = Audit::of(replicas);
        let versions = at_manager.iter().map(|(stage, version)| (*stage, VersionId::new(*version))).collect();
        audit.manager.insert(SecretId::parse("svc/signing").expect("an id"), Ok(versions));
        audit
    }

    fn subjects(audit: &Audit) -> Vec<String> {
        audit.faults().into_iter().map(|fault| fault.subject).collect()
    }

    #[test]
    fn a_key_that_the_manager_has_dropped_is_named_while_a_replica_verifies_with_it() {
        let both = || replica("v3", serde_json::json!({ "previous": "v2" }));
        let old = || replica("v3", serde_json::json!({ "previous": "v1" }));
        let at_manager = [(Stage::Current, "v3"), (Stage::Previous, "v2")];
        assert!(subjects(&audit(vec![both(), both()], &at_manager)).is_empty());
        let mixed = audit(vec![both(), old()], &at_manager);
        assert_eq!(subjects(&mixed), ["dropped versions: http://10.0.0.1:9090 (signing v1)"]);
        assert!(mixed.summary().starts_with("1 of 2 replicas"), "{}", mixed.summary());
        assert!(mixed.table().to_string().trim_end().ends_with("dropped"), "{}", mixed.table());
        assert_eq!(mixed.version_faults().len(), 1);
        let alone = audit(vec![old()], &[(Stage::Current, "v3")]);
        assert_eq!(subjects(&alone), ["dropped versions: http://10.0.0.0:9090 (signing v1)"]);
    }

    #[test]
    fn a_replica_that_lacks_the_pending_key_of_the_others_is_named() {
        let ready = replica("v1", serde_json::json!({ "pending": "v2" }));
        let mut mixed = audit(
            vec![ready, replica("v1", serde_json::json!({}))],
            &[(Stage::Current, "v1"), (Stage::Pending, "v2"), (Stage::Previous, "v0")],
        );
        assert_eq!(subjects(&mixed), ["missing versions: http://10.0.0.1:9090 (signing v2)"]);
        mixed.revoked.insert(VersionId::new("v2"));
        assert_eq!(subjects(&mixed), ["revoked: http://10.0.0.0:9090 (signing)"]);
    }

    #[test]
    fn an_api_key_that_comes_from_the_secret_of_a_signing_key_lacks_no_version() {
        let credential = |name: &str, others: serde_json::Value| {
            serde_json::json!({
                "name": name, "id": "svc/signing", "version": "v1", "stage": "current", "others": others,
                "loaded": "2026-01-02T03:04:05Z",
            })
        };
        let pending = serde_json::json!({ "pending": "v2" });
        let both = serde_json::json!([credential("signing", pending), credential("webhook", serde_json::json!({}))]);
        let at_manager = [(Stage::Current, "v1"), (Stage::Pending, "v2")];
        assert!(subjects(&audit(vec![ReplicaStatus::with_credentials(both)], &at_manager)).is_empty());
    }

    #[test]
    fn versions_that_no_replica_verifies_with_are_not_missed() {
        let login = || replica("v2", serde_json::json!({}));
        let at_manager = [(Stage::Current, "v2"), (Stage::Previous, "v1"), (Stage::Pending, "v3")];
        assert!(subjects(&audit(vec![login(), login()], &at_manager)).is_empty());
    }
}
