//! Versions of a secret: their stages and their values.

use super::id::VersionId;
use secrecy::SecretString;
use serde::Serialize;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Where a version stands in its rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// In use.
    Current,
    /// Made by a rotation that has not ended.
    Pending,
    /// In use before the last rotation.
    Previous,
}

impl Stage {
    pub(crate) const ALL: [Self; 3] = [Self::Current, Self::Pending, Self::Previous];
}

/// One version of a secret, as the manager gave it.
pub struct SecretValue {
    /// The bytes.
    pub text: SecretString,
    /// Which version they are.
    pub version: VersionId,
    /// When the manager got it, if it says so. A version older than the one held counts when a second read has it too.
    pub created: Option<OffsetDateTime>,
}

impl SecretValue {
    pub(super) fn older_than(&self, since: Option<OffsetDateTime>) -> bool {
        self.created < since && self.created.is_some()
    }
}

/// The versions of one secret that its kind asked for. [`Stage::Current`] is among them.
pub struct SecretValues {
    current: SecretValue,
    others: BTreeMap<Stage, SecretValue>,
    current_since: Option<OffsetDateTime>,
}

impl SecretValues {
    pub(crate) fn new(
        current: SecretValue,
        others: BTreeMap<Stage, SecretValue>,
        current_since: Option<OffsetDateTime>,
    ) -> Self {
        Self { current, others, current_since }
    }

    /// The version in use.
    pub fn current(&self) -> &SecretValue {
        &self.current
    }

    /// The version at another stage, where there is one.
    pub fn at(&self, stage: Stage) -> Option<&SecretValue> {
        match stage {
            Stage::Current => Some(&self.current),
            stage => self.others.get(&stage),
        }
    }

    /// When this process first saw the current version in the place of another one. `None`: it started with this one.
    pub fn current_since(&self) -> Option<OffsetDateTime> {
        self.current_since
    }

    pub(super) fn versions(&self) -> Versions {
        let others = self.others.iter().map(|(stage, value)| (*stage, value));
        std::iter::once((Stage::Current, &self.current))
            .chain(others)
            .map(|(stage, value)| (stage, value.version.clone()))
            .collect()
    }
}

/// Which version is held at which stage.
pub type Versions = BTreeMap<Stage, VersionId>;
