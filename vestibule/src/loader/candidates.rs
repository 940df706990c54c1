//! Candidates: credentials that the manager made for a load which failed. The next load uses them.

use crate::{
    moment::Moment,
    secrets::{
        credential::Name,
        held::{HeldCredential, HeldCredentials},
        id::SecretId,
    },
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The age at which a candidate that the other side rejects is given up. Until then, no other one is made.
const REJECTED_FOR: Duration = Duration::from_secs(60);

/// The credentials that were made for loads which failed. A manager that makes a database user at each read would otherwise
/// make one for each try.
#[derive(Default)]
pub(super) struct Candidates(Mutex<BTreeMap<Name, (HeldCredential, Moment)>>);

impl Candidates {
    /// Returns all of them, as they are now.
    pub(super) fn all(&self) -> HeldCredentials {
        let mut all = HeldCredentials::default();
        for (name, (candidate, _)) in &*self.lock() {
            all.insert(name, candidate.clone());
        }
        all
    }

    /// Keeps the credentials among `resolved` that have a lease and are not in service.
    pub(super) fn keep(&self, resolved: &HeldCredentials, in_service: &HeldCredentials) {
        let mut candidates = self.lock();
        for (name, credential) in resolved.iter() {
            let is_in_service = in_service.named(name).is_some_and(|held| held.in_use() == credential.in_use());
            let is_kept = candidates.get(name).is_some_and(|(kept, _)| kept.in_use() == credential.in_use());
            if credential.lease.is_some() && !is_in_service && !is_kept {
                candidates.insert(name, (credential.clone(), Moment::now()));
            }
        }
    }

    /// Records that the other side rejects the candidate of this name.
    pub(super) fn rejected(&self, name: Name) {
        let mut candidates = self.lock();
        if candidates.get(name).is_some_and(|(_, since)| since.elapsed() > REJECTED_FOR) {
            candidates.remove(name);
        }
    }

    /// Forgets those that nobody needs: they are in service, or what is in service is good.
    pub(super) fn settle(&self, in_service: &HeldCredentials, drain: Duration) {
        self.lock().retain(|name, (candidate, _)| {
            let Some(held) = in_service.get(name, &candidate.id) else { return true };
            held.in_use() != candidate.in_use() && held.lease.as_ref().is_some_and(|lease| lease.is_due(drain))
        });
    }

    /// Forgets all but those of these names and ids.
    pub(super) fn retain(&self, named: &[(Name, SecretId)]) {
        self.lock().retain(|name, (candidate, _)| named.iter().any(|(other, id)| other == name && *id == candidate.id));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, (HeldCredential, Moment)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
