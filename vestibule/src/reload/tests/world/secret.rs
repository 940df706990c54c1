//! A secret as the model knows it.

use crate::reload::tests::Value;
use crate::secrets::{
    id::VersionId,
    version::{Stage, Versions},
};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// A secret as the manager has it.
#[derive(Default)]
pub(super) struct ModelSecret {
    /// The value of each version, and its password.
    pub(super) versions: BTreeMap<VersionId, (Value, String)>,
    pub(super) labels: Versions,
    /// The time at which a version lost the label of a stage.
    lost: BTreeMap<(Stage, VersionId), Instant>,
}

impl ModelSecret {
    pub(super) fn set_label(&mut self, stage: Stage, version: Option<VersionId>) {
        let before = match version {
            Some(version) => self.labels.insert(stage, version),
            None => self.labels.remove(&stage),
        };
        if let Some(before) = before {
            self.lost.insert((stage, before), Instant::now());
        }
    }

    /// Makes a version current. The one before it becomes the previous one.
    pub(super) fn make_current(&mut self, version: VersionId) {
        let before = self.labels.get(&Stage::Current).cloned();
        if before.as_ref() == Some(&version) {
            return;
        }
        self.set_label(Stage::Current, Some(version));
        if before.is_some() {
            self.set_label(Stage::Previous, before);
        }
    }

    /// Returns the version at a stage, if it is well formed and not revoked.
    pub(super) fn usable(&self, stage: Stage, revoked: &BTreeSet<VersionId>) -> Option<&VersionId> {
        let version = self.labels.get(&stage)?;
        let is_usable = self.is_well_formed(version) && !revoked.contains(version);
        if is_usable { Some(version) } else { None }
    }

    pub(super) fn is_well_formed(&self, version: &VersionId) -> bool {
        matches!(self.versions[version].0, Value::Good | Value::OfAnotherUser)
    }

    /// Returns true if the version had one of these labels at some time from `start` on.
    pub(super) fn had_label(&self, version: &VersionId, stages: &[Stage], start: Instant) -> bool {
        stages.iter().any(|stage| {
            let has = self.labels.get(stage) == Some(version);
            has || self.lost.get(&(*stage, version.clone())).is_some_and(|lost| *lost >= start)
        })
    }
}
