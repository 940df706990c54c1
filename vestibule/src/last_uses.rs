//! The last use of versions that are no longer current. It tells when revoking one hurts nobody.

use crate::{
    moment::Moment,
    secrets::{credential::Name, id::VersionId},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The times at which this process last used versions that only verify, or that were replaced.
#[derive(Debug, Default)]
pub(crate) struct LastUses(Mutex<BTreeMap<(Name, VersionId), Moment>>);

impl LastUses {
    /// Records that the version is used now.
    pub(crate) fn record(&self, credential: Name, version: &VersionId) {
        self.lock().insert((credential, version.clone()), Moment::now());
    }

    /// Returns the time of the last use. `None` if this process has not used the version, or has forgotten it.
    pub(crate) fn of(&self, credential: Name, version: &VersionId) -> Option<Moment> {
        self.lock().get(&(credential, version.clone())).copied()
    }

    /// Forgets all versions but these.
    pub(crate) fn retain(&self, is_needed: impl Fn(Name, &VersionId) -> bool) {
        self.lock().retain(|(credential, version), _| is_needed(credential, version));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Name, VersionId), Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
