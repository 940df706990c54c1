//! The keys of an issuer of tokens, compared between replicas. The issuer itself is not asked: the replica that fetched
//! them last has what the issuer says.

use super::{
    comparison::Audit,
    replica::{ReplicaAuthentication, ReplicaStatus},
};
use crate::cli::admin_listeners::address::ReplicaAddress;
use std::{collections::BTreeSet, time::Duration};
use time::OffsetDateTime;

/// The name of these keys in the table, beside those of credentials.
pub(super) const NAME: &str = "[auth]";

/// The age at which the last fetch of a replica is old. The longest `auth.refresh_every` is 15 min.
const OLD: Duration = Duration::from_secs(20 * 60);

/// The verdict on the issuer's keys that a replica holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeysVerdict {
    Current,
    /// A replica that fetched them later has other ones.
    Behind,
    /// They were not fetched for a long time.
    Old,
}

impl KeysVerdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Old => "old",
        }
    }
}

impl Audit {
    /// Returns what the replica that fetched the keys of this issuer last holds.
    pub(super) fn newest_keys(&self, issuer: &str) -> Option<&ReplicaAuthentication> {
        let held = self.reachable().filter_map(|(_, status)| status.authentication.as_ref());
        held.filter(|held| held.issuer == issuer).max_by_key(|held| held.verified)
    }

    pub(super) fn keys_verdict(&self, held: &ReplicaAuthentication) -> KeysVerdict {
        if self.newest_keys(&held.issuer).is_some_and(|newest| newest.version != held.version) {
            KeysVerdict::Behind
        } else if OffsetDateTime::now_utc() - held.verified > OLD {
            KeysVerdict::Old
        } else {
            KeysVerdict::Current
        }
    }

    /// Returns the replicas whose keys are behind, with the keys that differ.
    pub(super) fn replicas_with_other_keys(&self) -> Vec<String> {
        self.replicas_with_keys(KeysVerdict::Behind, |held| {
            let newest = self.newest_keys(&held.issuer).map(|newest| &newest.key_ids[..]).unwrap_or_default();
            let (newest, held): (BTreeSet<_>, BTreeSet<_>) = (newest.iter().collect(), held.key_ids.iter().collect());
            let mut differences = Vec::new();
            for (title, ids) in [("still trusts", &held - &newest), ("has not", &newest - &held)] {
                differences.extend(ids.iter().map(|id| format!("{title} {}", id.escape_default())));
            }
            if differences.is_empty() { "other keys of the same ids".into() } else { differences.join(", ") }
        })
    }

    /// Returns the replicas whose last fetch is old, with its time.
    pub(super) fn replicas_with_old_keys(&self) -> Vec<String> {
        self.replicas_with_keys(KeysVerdict::Old, |held| format!("fetched at {}", held.fetched_at()))
    }

    fn replicas_with_keys(&self, verdict: KeysVerdict, say: impl Fn(&ReplicaAuthentication) -> String) -> Vec<String> {
        let mut replicas = Vec::new();
        for (address, status) in self.reachable() {
            if let Some(held) = &status.authentication
                && self.keys_verdict(held) == verdict
            {
                replicas.push(format!("{address} ({})", say(held)));
            }
        }
        replicas
    }

    /// Returns the replicas with their issuers, if these differ.
    pub(super) fn replicas_of_several_issuers(&self) -> Vec<String> {
        let issuer_of = |(_, status): (&ReplicaAddress, &ReplicaStatus)| {
            status.authentication.as_ref().map(|held| held.issuer.clone())
        };
        let issuers: BTreeSet<_> = self.reachable().map(issuer_of).collect();
        if issuers.len() < 2 {
            return Vec::new();
        }
        let replicas = self.reachable().map(|(address, status)| match &status.authentication {
            Some(held) => format!("{address} ({})", held.issuer.escape_default()),
            None => format!("{address} (every route is open)"),
        });
        replicas.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the audit of replicas that hold these keys, fetched that many minutes ago.
    fn audit(replicas: &[(&str, &[&str], i64)]) -> Audit {
        let mut answers = Vec::new();
        for (version, key_ids, minutes) in replicas {
            let (issuer, key_ids) = ("https://issuer.example".to_owned(), key_ids.iter().map(ToString::to_string));
            let verified =
                OffsetDateTime::now_utc() - Duration::from_secs(60) * u32::try_from(*minutes).expect("a few");
            let held =
                ReplicaAuthentication { issuer, version: version.to_string(), key_ids: key_ids.collect(), verified };
            answers.push(ReplicaStatus::with_authentication(held));
        }
        Audit::of(answers)
    }

    #[test]
    fn the_replica_that_fetched_last_says_who_is_behind_and_an_old_fetch_is_named() {
        let mixed = audit(&[("b", &["new"], 1), ("a", &["old", "new"], 5), ("b", &["new"], 12)]);
        assert_eq!(mixed.replicas_with_other_keys(), ["http://10.0.0.1:9090 (still trusts old)"]);
        assert!(mixed.replicas_with_old_keys().is_empty());
        let reused = audit(&[("b", &["one"], 1), ("a", &["one"], 5)]);
        assert_eq!(reused.replicas_with_other_keys(), ["http://10.0.0.1:9090 (other keys of the same ids)"]);
        let old = audit(&[("a", &["one"], 1), ("a", &["one"], 21)]);
        assert!(old.replicas_with_old_keys()[0].starts_with("http://10.0.0.1:9090 (fetched at "));
        let hostile = audit(&[("b", &[], 1), ("a", &["\u{1b}[2J"], 5)]);
        assert_eq!(hostile.replicas_with_other_keys(), ["http://10.0.0.1:9090 (still trusts \\u{1b}[2J)"]);
    }
}
