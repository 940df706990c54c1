//! The status of a replica, as far as an audit reads it.

use crate::{config::units, secrets::id::SecretId};
use serde::{Deserialize, Deserializer};
use std::{collections::BTreeMap, iter};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// The part of `/status` that an audit reads.
#[derive(Deserialize)]
pub(crate) struct ReplicaStatus {
    pub(in crate::cli) instance: Uuid,
    /// The time of the answer by the clock of the replica, as are all times here. `None` if its release does not say it.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(super) now: Option<OffsetDateTime>,
    pub(crate) credentials: Vec<ReplicaCredential>,
    /// The databases that need no secret, so that there is nothing to compare.
    #[serde(default)]
    pub(super) iam_databases: Vec<ReplicaIamDatabase>,
    pub(super) draining: Vec<ReplicaDraining>,
    /// `None` if authentication is off.
    pub(super) authentication: Option<ReplicaAuthentication>,
    /// The time by which the clock of the replica is ahead of ours. Zero if nothing says that the clocks differ.
    #[serde(skip)]
    pub(super) clock_ahead: time::Duration,
}

/// The keys of an issuer of tokens that a replica holds. The texts are the issuer's.
#[derive(Deserialize)]
pub(super) struct ReplicaAuthentication {
    pub(super) issuer: String,
    /// The hash of the keys.
    #[serde(deserialize_with = "printable")]
    pub(super) version: String,
    pub(super) key_ids: Vec<String>,
    /// The time of the last fetch.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) verified: OffsetDateTime,
}

impl ReplicaAuthentication {
    pub(super) fn fetched_at(&self) -> String {
        to_the_second(self.verified)
    }
}

impl ReplicaStatus {
    /// Returns the status of a replica without credentials.
    #[cfg(test)]
    pub(super) fn with_authentication(authentication: ReplicaAuthentication) -> Self {
        Self { authentication: Some(authentication), ..Self::with_credentials(serde_json::json!([])) }
    }

    /// Returns the status of another process that holds these credentials, as `/status` writes them.
    #[cfg(test)]
    #[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
    pub(super) fn with_credentials(credentials: serde_json::Value) -> Self {
        let status = serde_json::json!({ "instance": Uuid::new_v4(), "credentials": credentials, "draining": [] });
        serde_json::from_value(status).expect("a status")
    }

    /// Returns `true` if it names nothing that a service could hold.
    pub(in crate::cli) fn has_nothing(&self) -> bool {
        self.credentials.is_empty() && self.iam_databases.is_empty() && self.authentication.is_none()
    }

    /// Returns the credentials with a lease.
    pub(super) fn leased(&self) -> impl Iterator<Item = &ReplicaCredential> {
        self.credentials.iter().filter(|held| held.lease.is_some())
    }

    /// Returns the numbers of the generations that drain.
    pub(super) fn draining_generations(&self) -> String {
        let numbers: Vec<_> = self.draining.iter().map(|draining| draining.generation.to_string()).collect();
        numbers.join(",")
    }

    /// Returns the generations that drain, each with what holds it.
    pub(crate) fn draining_reasons(&self) -> String {
        let each: Vec<_> = self
            .draining
            .iter()
            .map(|ReplicaDraining { generation, reason }| format!("generation {generation}: {reason}"))
            .collect();
        each.join("; ")
    }
}

/// A database that a replica logs in to with IAM.
#[derive(Deserialize)]
pub(super) struct ReplicaIamDatabase {
    #[serde(deserialize_with = "printable")]
    pub(super) name: String,
}

/// A credential that a replica holds.
#[derive(Deserialize)]
pub(crate) struct ReplicaCredential {
    #[serde(deserialize_with = "printable")]
    pub(in crate::cli) name: String,
    pub(super) id: SecretId,
    #[serde(deserialize_with = "printable")]
    pub(in crate::cli) version: String,
    #[serde(deserialize_with = "printable")]
    pub(super) stage: String,
    /// The versions that only verify, by stage.
    #[serde(default)]
    others: BTreeMap<String, SecretVersion>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) loaded: OffsetDateTime,
    /// `None` if the manager has one version for all replicas.
    pub(super) lease: Option<ReplicaLease>,
}

/// The lease of a credential that a replica holds.
#[derive(Deserialize)]
pub(super) struct ReplicaLease {
    #[serde(with = "time::serde::rfc3339")]
    pub(super) end: OffsetDateTime,
}

/// The id of a version.
#[derive(Deserialize)]
struct SecretVersion(#[serde(deserialize_with = "printable")] String);

impl ReplicaCredential {
    pub(super) fn name_and_id(&self) -> (String, SecretId) {
        (self.name.clone(), self.id.clone())
    }

    /// Returns every version that it uses, for any purpose.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &str> {
        iter::once(self.version.as_str()).chain(self.others())
    }

    /// Returns the versions that only verify.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        self.others.values().map(|SecretVersion(version)| version.as_str())
    }

    /// Returns the time at which it was loaded, to the second.
    pub(crate) fn loaded_at(&self) -> String {
        to_the_second(self.loaded)
    }
}

fn to_the_second(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

/// A generation that a replica has replaced and that is still in use.
#[derive(Deserialize)]
pub(super) struct ReplicaDraining {
    generation: u64,
    /// The holders, as text for people.
    #[serde(deserialize_with = "printable_text")]
    reason: String,
}

/// Deserializes a word of visible ASCII characters. The text comes from the network and goes into a table on a
/// terminal, so it must have no control characters and no spaces.
fn printable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    units::text(deserializer, "a word", |text| {
        if text.chars().all(|c| c.is_ascii_graphic()) { Some(text.to_owned()) } else { None }
    })
}

/// Deserializes a text of visible ASCII characters and spaces.
fn printable_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    units::text(deserializer, "a text", |text| {
        if text.chars().all(|c| c.is_ascii_graphic() || c == ' ') { Some(text.to_owned()) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
    #[test]
    fn a_replica_whose_only_credential_needs_no_secret_has_something() {
        let status = |iam_databases: serde_json::Value| {
            let json = serde_json::json!({
                "instance": Uuid::nil(),
                "credentials": [],
                "iam_databases": iam_databases,
                "draining": [],
            });
            serde_json::from_value::<ReplicaStatus>(json).expect("a status")
        };
        assert!(status(serde_json::json!([])).has_nothing());
        assert!(!status(serde_json::json!([{ "name": "database" }])).has_nothing());
    }

    #[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
    #[test]
    fn a_status_with_control_characters_or_spaces_is_refused() {
        let status = |version: &str| {
            serde_json::json!({
                "instance": Uuid::nil(),
                "credentials": [{
                    "name": "database",
                    "id": "svc/database",
                    "version": version,
                    "stage": "current",
                    "loaded": "2026-01-02T03:04:05.678Z",
                }],
                "draining": [],
            })
            .to_string()
        };
        let good: ReplicaStatus = serde_json::from_str(&status("v1")).expect("a status");
        assert_eq!(good.credentials[0].loaded_at(), "2026-01-02T03:04:05Z");
        for version in ["\u{1b}[2J", "v1  current", "v1\n"] {
            assert!(serde_json::from_str::<ReplicaStatus>(&status(version)).is_err(), "{version:?}");
        }
    }
}
