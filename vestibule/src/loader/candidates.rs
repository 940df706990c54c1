//! Candidates: credentials that the manager made for a load which failed. The next load uses them.

use crate::secrets::{credential::Name, held::HeldCredentials};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;

/// The age at which a candidate that the other side rejects is given up. Until then, no other one is made.
const REJECTED_FOR: Duration = Duration::from_secs(60);

/// The credentials that were made for loads which failed. A manager that makes a database user at each read would otherwise
/// make one for each try.
#[derive(Default)]
pub(super) struct Candidates(Mutex<HeldCredentials>);

impl Candidates {
    /// Returns all of them, as they are now.
    pub(super) fn all(&self) -> HeldCredentials {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the credentials among `resolved` that have a lease and are not in service.
    pub(super) fn keep(&self, resolved: &HeldCredentials, in_service: &HeldCredentials) {
        let mut candidates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, credential) in resolved.iter() {
            let is_in_service = in_service.named(name).is_some_and(|held| held.in_use() == credential.in_use());
            if credential.lease.is_some() && !is_in_service {
                candidates.insert(name, credential.clone());
            }
        }
    }

    /// Records that the other side rejects the candidate of this name, or that a service cannot be built with it.
    pub(super) fn failed(&self, name: Name) {
        let mut candidates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |loaded| OffsetDateTime::now_utc() - loaded > REJECTED_FOR;
        if candidates.named(name).is_some_and(|candidate| is_old(candidate.loaded)) {
            candidates.remove(name);
        }
    }

    /// Forgets all: they are in service, or were replaced.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = HeldCredentials::default();
    }
}
