//! The lease of a credential, as `/status` shows it.

use crate::{
    moment::Moment,
    secrets::{held::HeldCredential, lease::SecretLease},
};
use serde::Serialize;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use time::OffsetDateTime;

/// The lease of a credential in service. It does not hold the lease.
#[derive(Clone, Serialize)]
pub(crate) struct LeaseStatus {
    /// The end, which a renewal moves.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) end: OffsetDateTime,
    /// The time from which on a successor is taken up.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) due: OffsetDateTime,
    /// The time at which the manager last said when it ends.
    #[serde(skip)]
    pub(super) confirmed: Moment,
    #[serde(skip)]
    lease: Weak<SecretLease>,
    /// `server.drain`.
    #[serde(skip)]
    drain: Duration,
}

impl LeaseStatus {
    /// Returns the lease of a credential, if it has one.
    pub(super) fn of(held: &HeldCredential, drain: Duration) -> Option<Self> {
        held.lease.as_ref().map(|lease| Self::new(lease, drain))
    }

    pub(super) fn new(lease: &Arc<SecretLease>, drain: Duration) -> Self {
        let (end, confirmed) = (lease.end().ends_at(), lease.confirmed());
        Self { end, due: end - lease.margin(drain), confirmed, lease: Arc::downgrade(lease), drain }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lease.upgrade().is_some_and(|lease| lease.has_ended())
    }

    /// Returns it as it is now.
    pub(super) fn now(&self) -> Self {
        match self.lease.upgrade() {
            Some(lease) => Self::new(&lease, self.drain),
            None => self.clone(),
        }
    }
}
