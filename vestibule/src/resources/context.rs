//! The context of one load.

use super::{
    breaker::{Breakers, ProbeReason},
    database::DatabaseSections,
    registry::ResourceRegistry,
};
use crate::{
    application::WorkerWakes, blocking_reads::FileReads, config::settings::SecretsConfig, last_uses::LastUses,
    loader::WAIT_FOR_OTHERS, metrics::MetricsRegistry, package::Package, reload_requests::ReloadRequests,
    secrets::credential::Name, traces::Tracer,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// The values that every step of one load shares.
pub(crate) struct LoadContext<'a> {
    pub(crate) package: &'a Package,
    pub(crate) secrets: &'a SecretsConfig,
    /// `true` unless the profile is `dev`.
    pub(crate) is_strict: bool,
    pub(crate) files: &'a FileReads,
    pub(crate) databases: DatabaseSections<'a>,
    /// `server.request_timeout`.
    pub(crate) request_timeout: Duration,
    /// The resources of the generation in service. `None` during a start.
    pub(crate) in_service: Option<&'a ResourceRegistry>,
    /// The resources that earlier attempts of this load have made. `build` may run again with other versions.
    pub(crate) made: &'a Mutex<ResourceRegistry>,
    /// The credentials whose version in service must be replaced, and that have a new one. No other one may hold up
    /// their replacement.
    pub(crate) replaced: &'a BTreeSet<Name>,
    /// The time at which the load must have ended.
    pub(crate) deadline: Instant,
    /// The same for the proofs of others, if a version in service is rejected or revoked, or its lease is due: the next load
    /// may find its successor.
    pub(crate) deadline_of_others: Instant,
    /// The reason for which the load may try a rejected version again.
    pub(crate) probe_reason: ProbeReason,
    pub(crate) metrics: &'a MetricsRegistry,
    pub(crate) reload_requests: &'a Arc<ReloadRequests>,
    pub(crate) breakers: &'a Breakers,
    pub(crate) last_uses: &'a Arc<LastUses>,
    pub(crate) worker_wakes: &'a WorkerWakes,
    pub(crate) tracer: &'a Tracer,
}

impl LoadContext<'_> {
    /// Returns the deadline for the proof of one credential. If others are replaced because they must be, it has 2 s:
    /// it can stay as held. If it is one of several that must be replaced, it leaves time for the others.
    pub(crate) fn deadline_of(&self, name: Name) -> Instant {
        let now = Instant::now();
        let left = self.deadline.saturating_duration_since(now);
        match u32::try_from(self.replaced.len()) {
            Ok(0) => self.deadline_of_others,
            Ok(several) if self.replaced.contains(name) => now + left / several,
            _ => now + left.min(WAIT_FOR_OTHERS),
        }
    }

    /// Returns `true` if the load is part of a start: no generation is in service yet.
    pub(crate) fn is_start(&self) -> bool {
        self.in_service.is_none()
    }
}
