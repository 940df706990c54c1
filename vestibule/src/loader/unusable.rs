//! Values that the manager made for a load, and that cannot be used: malformed ones. Their leases are given back at
//! once. The loads of the next minute report their faults again, because each try would have another value made.

use crate::{
    exit::Fault,
    moment::Moment,
    secrets::{credential::Name, id::SecretId},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The time for which no other value is made.
const NO_OTHER_FOR: Duration = Duration::from_secs(60);

/// The faults of such values, with the time of each.
#[derive(Default)]
pub(super) struct UnusableValues(Mutex<BTreeMap<(Name, SecretId), (Fault, Moment)>>);

impl UnusableValues {
    /// Adds the faults of a load.
    pub(super) fn add(&self, faults: Vec<(Name, SecretId, Fault)>) {
        let mut unusable = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, id, fault) in faults {
            unusable.insert((name, id), (fault, Moment::now()));
        }
    }

    /// Returns the faults of the last minute.
    pub(super) fn lately(&self) -> BTreeMap<(Name, SecretId), Fault> {
        let mut unusable = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unusable.retain(|_, (_, since)| since.elapsed() < NO_OTHER_FOR);
        unusable.iter().map(|(credential, (fault, _))| (credential.clone(), fault.clone())).collect()
    }
}
