//! The credentials that a generation holds, with their versions.

use super::{
    credential::Name,
    expiry::Expiry,
    id::{SecretId, VersionId},
    lease::SecretLease,
    version::{Stage, Versions},
};
use crate::{moment::Moment, telemetry::live_secrets::LiveSecretGuard};
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};
use time::OffsetDateTime;

/// One credential that a generation holds.
#[derive(Clone)]
pub(crate) struct HeldCredential {
    pub(crate) id: SecretId,
    /// The versions that it is made of. The key [`Stage::Current`] always has the version in use, even if the manager has
    /// it at another stage.
    pub(crate) versions: Versions,
    /// Those among them that its kind cannot use, and takes as absent.
    pub(super) unused: Versions,
    /// The stage at which the manager had the version in use.
    pub(crate) stage: Stage,
    /// The version that the manager had at each stage that was fetched.
    pub(crate) fetched: Versions,
    pub(crate) loaded: Moment,
    /// The time at which the manager got the version in use.
    pub(crate) created: Option<OffsetDateTime>,
    /// The end of the version in use, if it expires by itself.
    pub(crate) expiry: Option<Expiry>,
    /// The lease of the version in use.
    pub(crate) lease: Option<Arc<SecretLease>>,
    /// The time at which this process first saw the version in use replace another one. `None` if it started with it.
    pub(crate) current_since: Option<Moment>,
    pub(super) value: Arc<dyn Any + Send + Sync>,
    /// The log looks for the value until this is dropped, after it.
    #[expect(dead_code, reason = "it only needs to be dropped")]
    pub(super) in_log: Arc<LiveSecretGuard>,
}

impl HeldCredential {
    /// Returns the version in use.
    pub(crate) fn in_use(&self) -> &VersionId {
        &self.versions[&Stage::Current]
    }

    /// Returns the versions that it uses beside the version in use.
    pub(crate) fn others(&self) -> Versions {
        let mut others = self.versions.clone();
        others.retain(|stage, version| version != self.in_use() && !self.unused.contains_key(stage));
        others
    }

    /// Returns the versions that `successor` has replaced: the version in use, if another one is in use there, and those
    /// that it is not made of.
    pub(crate) fn versions_replaced_by(&self, successor: Option<&Self>) -> BTreeSet<&VersionId> {
        let used = self.versions.iter().filter(|(stage, _)| !self.unused.contains_key(stage));
        let mut replaced: BTreeSet<_> = used.map(|(_, version)| version).collect();
        if let Some(successor) = successor {
            // The key that signed may still verify there.
            replaced.retain(|version| {
                if *version == self.in_use() {
                    *version != successor.in_use()
                } else {
                    successor.versions.values().all(|kept| kept != *version)
                }
            });
        }
        replaced
    }

    /// Returns `true` if it has one of these versions, at whichever stage.
    pub(crate) fn has_any(&self, versions: &BTreeSet<VersionId>) -> bool {
        self.versions.values().chain(self.fetched.values()).any(|version| versions.contains(version))
    }

    /// Returns the value as its kind.
    pub(super) fn value<K: Send + Sync + 'static>(&self) -> Arc<K> {
        self.value.clone().downcast().expect("a name has one kind in one service")
    }

    /// Returns the value, if it is of this kind.
    pub(crate) fn value_if<K: Send + Sync + 'static>(&self) -> Option<Arc<K>> {
        self.value.clone().downcast().ok()
    }

    /// Returns a handle that tells whether somebody holds the value, and does not hold it itself.
    pub(crate) fn observer(&self) -> Weak<dyn Any + Send + Sync> {
        Arc::downgrade(&self.value)
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.id == other.id && self.versions == other.versions
    }
}

/// The credentials of a generation, of any kind.
#[derive(Clone, Default)]
pub struct HeldCredentials {
    held: BTreeMap<Name, HeldCredential>,
}

impl HeldCredentials {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Name, &HeldCredential)> {
        self.held.iter().map(|(name, held)| (*name, held))
    }

    /// Returns what is held of a credential, if it came from this id.
    pub(crate) fn get(&self, name: Name, id: &SecretId) -> Option<&HeldCredential> {
        self.held.get(name).filter(|held| held.id == *id)
    }

    pub(crate) fn named(&self, name: Name) -> Option<&HeldCredential> {
        self.held.get(name)
    }

    /// Returns the first credential of this kind, by name.
    pub(crate) fn first_of<K: Send + Sync + 'static>(&self) -> Option<(Name, Arc<K>)> {
        self.iter().find_map(|(name, held)| Some((name, held.value_if::<K>()?)))
    }

    pub(crate) fn insert(&mut self, name: Name, held: HeldCredential) {
        self.held.insert(name, held);
    }

    /// Returns `true` if both hold the same versions of the same secrets.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        if self.held.len() != other.held.len() {
            return false;
        }
        self.iter().all(|(name, held)| other.named(name).is_some_and(|other| held.same_as(other)))
    }

    /// Returns `true` if this has another version of a credential than `before`.
    pub(crate) fn has_new_version(&self, name: Name, before: &Self) -> bool {
        match (self.named(name), before.named(name)) {
            (Some(held), Some(before)) => !held.same_as(before),
            _ => false,
        }
    }

    /// Logs each version that its kind cannot use, unless `before` had it too.
    pub(crate) fn warn_of_unused(&self, before: Option<&Self>) {
        for (name, held) in self.iter() {
            let known = before.and_then(|before| before.get(name, &held.id)).map(|before| &before.unused);
            for (stage, version) in &held.unused {
                if known.is_some_and(|known| known.values().any(|other| other == version)) {
                    continue;
                }
                tracing::warn!(
                    credential = name,
                    credential.version = %version,
                    credential.stage = %stage,
                    "a version that is not current is malformed; taking it as absent"
                );
            }
        }
    }

    /// Gives each version that `before` has too the time at which it was loaded first.
    pub(super) fn keep_load_times(&mut self, before: &Self) {
        for (name, held) in &mut self.held {
            if let Some(before) = before.named(name)
                && held.same_as(before)
            {
                held.loaded = before.loaded;
            }
        }
    }
}
