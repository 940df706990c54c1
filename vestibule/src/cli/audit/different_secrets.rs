//! Secrets that differ: a credential that replicas take from several secrets. Each replica may hold the current version of
//! its own secret, and still the service has two logins or two keys.

use super::comparison::Audit;
use std::collections::BTreeMap;

impl Audit {
    /// Returns the credentials that replicas take from different secrets, each with the ids and their replicas.
    pub(super) fn different_secrets(&self) -> Vec<String> {
        let mut credentials: BTreeMap<_, BTreeMap<_, Vec<_>>> = BTreeMap::new();
        for (address, status) in self.reachable() {
            for held in &status.credentials {
                credentials.entry(&held.name).or_default().entry(&held.id).or_default().push(address.to_string());
            }
        }
        credentials.retain(|_, secrets| secrets.len() > 1);
        let different = credentials.into_iter().map(|(name, secrets)| {
            let each: Vec<_> =
                secrets.into_iter().map(|(id, replicas)| format!("{id} at {}", replicas.join(" and "))).collect();
            format!("{name} ({})", each.join("; "))
        });
        different.collect()
    }
}
