//! The credentials in service that are doubtful, and those that stay as held although they have a fault.
//!
//! They decide between the two rules for a reload: only new versions are judged, and what must be replaced never waits.

use super::{WAIT_FOR_OTHERS, retry_class::RetryClass};
use crate::{
    application::{Application, Generation},
    exit::Fault,
    resources::rejection::Rejection,
    secrets::{credential::Name, expiry::Expiry, fetch::FetchContext, held::HeldCredentials, id::VersionId},
};
use std::collections::BTreeSet;
use tokio::time::Instant;

/// The credentials of the generation in service that are not good any more.
#[derive(Default)]
pub(super) struct Doubts {
    /// The other side rejects the version in service.
    pub(super) rejected: Vec<Rejection>,
    /// The credentials whose version in service is rejected or revoked, or whose lease is due.
    pub(super) names: BTreeSet<Name>,
    /// The credentials whose lease is due: a successor must be taken up before its end.
    due: BTreeSet<Name>,
    /// All of these, and the ones in their last days. To replace one of these never waits for another credential.
    pub(super) must_be_replaced: BTreeSet<Name>,
}

/// A credential that stays as held, because its new version has a fault or because the held one is rejected.
pub(crate) struct Unrefreshed {
    pub(crate) name: Name,
    pub(crate) fault: Fault,
    pub(crate) retry: RetryClass,
    /// `true` if the version in service is rejected, revoked, or in its last days, or its lease is due.
    pub(crate) must_be_replaced: bool,
}

impl Doubts {
    /// Returns what is doubtful in this generation. `revoked` is `secrets.revoked`.
    pub(super) fn of<A: Application>(in_service: &Generation<A>, revoked: &BTreeSet<VersionId>) -> Self {
        let rejected = in_service.resources.rejections();
        let mut names: BTreeSet<Name> = rejected.iter().map(|rejection| rejection.credential).collect();
        let mut must_be_replaced = BTreeSet::new();
        let mut due = BTreeSet::new();
        for (name, held) in in_service.credentials.iter() {
            if held.has_any(revoked) {
                names.insert(name);
            }
            if let Some(lease) = &held.lease {
                if lease.is_due(in_service.config.server.drain) {
                    due.insert(name);
                }
            } else if held.expiry.is_some_and(Expiry::is_due) {
                must_be_replaced.insert(name);
            }
        }
        names.extend(&due);
        must_be_replaced.extend(&names);
        Self { rejected, names, due, must_be_replaced }
    }

    /// Returns the credentials that must be replaced and have a new version in `resolved`.
    pub(super) fn replaced(&self, resolved: &HeldCredentials, held: &HeldCredentials) -> BTreeSet<Name> {
        self.must_be_replaced.iter().copied().filter(|name| resolved.has_new_version(name, held)).collect()
    }

    /// Returns the deadline for one more read for this credential. If another one that must be replaced has a new version,
    /// that is 2 s from now: the other one waits for it.
    pub(super) fn deadline_beside(
        &self,
        name: Name,
        resolved: &HeldCredentials,
        context: &FetchContext<'_>,
    ) -> Instant {
        let mut replaced = self.replaced(resolved, context.held).into_iter();
        if replaced.any(|other| other != name) {
            context.deadline.min(Instant::now() + WAIT_FOR_OTHERS)
        } else {
            context.deadline
        }
    }

    /// Returns `true` if a credential that must be replaced has a new version in `resolved`.
    pub(super) fn is_any_replaced(&self, resolved: &HeldCredentials, held: &HeldCredentials) -> bool {
        !self.replaced(resolved, held).is_empty()
    }

    /// Adds the credentials that are rejected and have no new version in `resolved`, and marks all that must be replaced.
    pub(super) fn add_still_rejected(
        &self,
        mut unrefreshed: Vec<Unrefreshed>,
        resolved: &HeldCredentials,
        held: &HeldCredentials,
    ) -> Vec<Unrefreshed> {
        for rejection in &self.rejected {
            if resolved.has_new_version(rejection.credential, held) {
                continue;
            }
            // The fault of the new version says more than the rejection of the held one. Retries follow all the same.
            match unrefreshed.iter_mut().find(|stays| stays.name == rejection.credential) {
                Some(stays) => stays.retry = RetryClass::Rejected,
                None => {
                    unrefreshed.push(Unrefreshed { retry: RetryClass::NoSuccessor, ..rejection.clone().into() });
                }
            }
        }
        for stays in &mut unrefreshed {
            // Its end is near, so the pauses must be short.
            if self.due.contains(stays.name) {
                stays.retry = RetryClass::Rejected;
            }
            stays.must_be_replaced = self.must_be_replaced.contains(stays.name);
        }
        unrefreshed
    }
}

impl Unrefreshed {
    /// Returns the class of the retry that these need, if one may help. A rejection ends by itself soonest.
    pub(crate) fn retry_of(all: &[Self]) -> Option<RetryClass> {
        let has = |class: RetryClass| all.iter().any(|stays| stays.retry == class);
        let is_all = |class: RetryClass| all.iter().all(|stays| stays.retry == class);
        if has(RetryClass::NoSuccessor) && is_all(RetryClass::NoSuccessor) {
            return Some(RetryClass::NoSuccessor);
        }
        if has(RetryClass::NoSuccessor) || has(RetryClass::Rejected) {
            return Some(RetryClass::Rejected);
        }
        if has(RetryClass::Unavailable) { Some(RetryClass::Unavailable) } else { None }
    }
}

impl From<(Name, Fault)> for Unrefreshed {
    fn from((name, fault): (Name, Fault)) -> Self {
        Self { name, retry: RetryClass::of(fault.exit), fault, must_be_replaced: false }
    }
}

impl From<Rejection> for Unrefreshed {
    fn from(rejection: Rejection) -> Self {
        let name = rejection.credential;
        Self { name, fault: rejection.into_fault(), retry: RetryClass::Rejected, must_be_replaced: false }
    }
}
