//! The context of one load.

use super::{
    breaker::{Breakers, ProbeReason},
    registry::ResourceRegistry,
};
use crate::{
    config::settings::{DatabaseConfig, SecretsConfig},
    metrics::MetricsRegistry,
    package::Package,
    reload_requests::ReloadRequests,
};
use std::sync::Arc;
use tokio::time::Instant;

/// The values that every step of one load shares.
pub(crate) struct LoadContext<'a> {
    pub(crate) package: &'a Package,
    pub(crate) secrets: &'a SecretsConfig,
    pub(crate) database: &'a DatabaseConfig,
    /// The resources of the generation in service. `None` during a start.
    pub(crate) in_service: Option<&'a ResourceRegistry>,
    /// The time at which the load must have ended.
    pub(crate) deadline: Instant,
    /// The reason for which the load may try a rejected version again.
    pub(crate) probe_reason: ProbeReason,
    pub(crate) metrics: &'a MetricsRegistry,
    pub(crate) reload_requests: &'a Arc<ReloadRequests>,
    pub(crate) breakers: &'a Breakers,
}

impl LoadContext<'_> {
    /// Returns `true` if the load is part of a start: no generation is in service yet.
    pub(crate) fn is_start(&self) -> bool {
        self.in_service.is_none()
    }
}
