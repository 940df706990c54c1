//! Values that the manager made for a load, and that cannot be used. Each try would have another one made.

use crate::{
    moment::Moment,
    secrets::{credential::Name, fetch::UnusableValue, id::SecretId},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The time for which no other value is made after a malformed one.
const NO_OTHER_FOR: Duration = Duration::from_secs(60);

/// Such values, with the time of each.
#[derive(Default)]
pub(super) struct UnusableValues(Mutex<BTreeMap<(Name, SecretId), (UnusableValue, Moment)>>);

impl UnusableValues {
    /// Adds the values of a load.
    pub(super) fn add(&self, values: Vec<(Name, SecretId, UnusableValue)>) {
        let mut unusable = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, id, value) in values {
            unusable.insert((name, id), (value, Moment::now()));
        }
    }

    /// Returns the malformed values of the last minute, and takes out those that are too early: the load which tries them adds
    /// those again that still are.
    pub(super) fn take(&self) -> BTreeMap<(Name, SecretId), UnusableValue> {
        let mut unusable = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_early = |value: &UnusableValue| matches!(value, UnusableValue::TooEarly(_));
        unusable.retain(|_, (value, since)| is_early(value) || since.elapsed() < NO_OTHER_FOR);
        let taken = unusable.iter().map(|(credential, (value, _))| (credential.clone(), value.clone())).collect();
        unusable.retain(|_, (value, _)| !is_early(value));
        taken
    }

    /// Forgets all of them, so that the manager makes others.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
