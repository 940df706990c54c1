//! Versions of a secret: their stages and their values.

use super::{id::VersionId, lease::SecretLease};
use crate::moment::Moment;
use secrecy::SecretString;
use serde::Serialize;
use std::{collections::BTreeMap, fmt, sync::Arc};
use time::OffsetDateTime;

/// The place of a version in its rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The version that the manager gives to everybody who names no other one.
    Current,
    /// The version that a rotation made, while the rotation has not ended.
    Pending,
    /// The version that was current before the last rotation.
    Previous,
}

impl Stage {
    pub(crate) const ALL: [Self; 3] = [Self::Current, Self::Pending, Self::Previous];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One version of a secret, as the manager gave it.
pub struct SecretValue {
    /// The bytes.
    pub text: SecretString,
    /// The id of the version.
    pub version: VersionId,
    /// The time at which the manager got the version, if it says so. A version older than the one held is used only
    /// if a second read returns it too.
    pub created: Option<OffsetDateTime>,
    /// The lease, if the value may be used for a limited time.
    pub lease: Option<Arc<SecretLease>>,
}

impl SecretValue {
    /// Returns `true` if both times are known and this version is older.
    pub(super) fn older_than(&self, since: Option<OffsetDateTime>) -> bool {
        match (self.created, since) {
            (Some(created), Some(since)) => created < since,
            _ => false,
        }
    }
}

/// The versions of one secret at the stages that its kind asks for ([`Kind::STAGES`](super::Kind::STAGES)). There is
/// always one at [`Stage::Current`].
pub struct SecretValues {
    current: SecretValue,
    others: BTreeMap<Stage, SecretValue>,
    current_since: Option<Moment>,
}

impl SecretValues {
    pub(crate) fn new(
        current: SecretValue,
        others: BTreeMap<Stage, SecretValue>,
        current_since: Option<Moment>,
    ) -> Self {
        Self { current, others, current_since }
    }

    /// Returns the version in use.
    pub fn current(&self) -> &SecretValue {
        &self.current
    }

    /// Returns the version at a stage, if there is one.
    pub fn at(&self, stage: Stage) -> Option<&SecretValue> {
        match stage {
            Stage::Current => Some(&self.current),
            Stage::Pending | Stage::Previous => self.others.get(&stage),
        }
    }

    /// Returns the time at which this process first saw the current version in place of another one. Returns `None` if
    /// the process started with this version.
    pub fn current_since(&self) -> Option<OffsetDateTime> {
        self.current_since.map(Moment::at)
    }

    /// Returns the same as a moment, to measure from.
    pub(crate) fn seen_current(&self) -> Option<Moment> {
        self.current_since
    }

    /// Returns all versions.
    pub(crate) fn all(&self) -> impl Iterator<Item = &SecretValue> {
        std::iter::once(&self.current).chain(self.others.values())
    }

    pub(super) fn versions(&self) -> Versions {
        let mut versions = Versions::from([(Stage::Current, self.current.version.clone())]);
        for (stage, value) in &self.others {
            versions.insert(*stage, value.version.clone());
        }
        versions
    }
}

/// The id of the version at each stage.
pub type Versions = BTreeMap<Stage, VersionId>;
