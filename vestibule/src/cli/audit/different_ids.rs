//! Ids that differ: a credential that replicas take by several ids, or that some of them do not have. Each replica may hold the
//! current version of its own secret, and still the service has two logins or two keys.

use super::{comparison::Audit, replica::ReplicaStatus};
use std::collections::{BTreeMap, BTreeSet};

impl ReplicaStatus {
    /// Returns the names of its credentials. One of a database with `auth = "iam"` has no secret.
    fn names(&self) -> impl Iterator<Item = &str> {
        let with_secret = self.credentials.iter().map(|held| held.name.as_str());
        with_secret.chain(self.iam_databases.iter().map(|database| database.name.as_str()))
    }

    /// Returns the id of the secret that it takes a credential from, or the word for having none.
    fn id_of(&self, name: &str) -> String {
        match self.credentials.iter().find(|held| held.name == name) {
            Some(held) => held.id.to_string(),
            None if self.iam_databases.iter().any(|database| database.name == name) => "IAM".into(),
            None => "no id".into(),
        }
    }
}

impl Audit {
    /// Returns the credentials that replicas take by different ids, each with the ids and their replicas.
    pub(super) fn different_ids(&self) -> Vec<String> {
        let names: BTreeSet<_> = self.reachable().flat_map(|(_, status)| status.names()).collect();
        let mut different = Vec::new();
        for name in names {
            let mut ids: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for (address, status) in self.reachable() {
                ids.entry(status.id_of(name)).or_default().push(address.to_string());
            }
            if ids.len() > 1 {
                let each: Vec<_> =
                    ids.into_iter().map(|(id, replicas)| format!("{id} at {}", replicas.join(" and "))).collect();
                different.push(format!("{name} ({})", each.join("; ")));
            }
        }
        different
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::audit::replica::ReplicaIamDatabase;

    /// Returns the status of a replica that takes `database` from this secret. With no id, it uses IAM.
    fn replica(id: Option<&str>) -> ReplicaStatus {
        let credential = |id: &str| {
            serde_json::json!({
                "name": "database", "id": id, "version": "v1", "stage": "current", "loaded": "2026-01-02T03:04:05Z",
            })
        };
        let mut status = ReplicaStatus::with_credentials(id.map(credential).into_iter().collect());
        if id.is_none() {
            status.iam_databases.push(ReplicaIamDatabase { name: "database".into() });
        }
        status
    }

    #[test]
    fn replicas_that_take_a_credential_by_other_ids_or_without_one_are_named() {
        let same = || replica(Some("svc/database"));
        assert!(Audit::of(vec![same(), same()]).different_ids().is_empty());
        assert!(Audit::of(vec![replica(None), replica(None)]).different_ids().is_empty());
        let without = ReplicaStatus::with_credentials(serde_json::json!([]));
        let mixed = Audit::of(vec![same(), replica(None), without, replica(Some("svc/other")), same()]);
        let expected = "database (IAM at http://10.0.0.1:9090; no id at http://10.0.0.2:9090; \
                        svc/database at http://10.0.0.0:9090 and http://10.0.0.4:9090; \
                        svc/other at http://10.0.0.3:9090)";
        assert_eq!(mixed.different_ids(), [expected]);
    }
}
