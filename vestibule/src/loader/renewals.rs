//! Renewals at the beginning of a load: they verify the leases in service.

use super::Unrefreshed;
use crate::secrets::{
    credential::Name,
    fetch::{self, FetchContext},
    held::HeldCredentials,
    source::SourceError,
};
use futures_util::future::join_all;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Renews the leases of these credentials that are not due, all at the same time. Returns those that could not be renewed. One
/// that the manager has ended is due then.
pub(super) async fn renew_leases(
    credentials: &HeldCredentials,
    drain: Duration,
    deadline: Instant,
) -> BTreeMap<Name, SourceError> {
    let renewals = credentials.iter().filter_map(|(name, held)| {
        let lease = held.lease.clone().filter(|lease| !lease.is_due(drain))?;
        Some(async move {
            match timeout_at(deadline, lease.renew()).await {
                Ok(renewed) => Some((name, renewed.err()?)),
                Err(_) => Some((name, SourceError::Unanswered("no answer in time".into()))),
            }
        })
    });
    join_all(renewals).await.into_iter().flatten().collect()
}

/// Returns the credentials that stay in service although their lease could not be renewed. They hold nothing up.
pub(super) fn unrefreshed_of(
    unrenewed: &BTreeMap<Name, SourceError>,
    resolved: &HeldCredentials,
    context: &FetchContext<'_>,
) -> Vec<Unrefreshed> {
    let mut unrefreshed = Vec::new();
    for (name, error) in unrenewed {
        if let Some(held) = context.held.named(name)
            && !context.doubted.contains(name)
            && !resolved.has_new_version(name, context.held)
        {
            unrefreshed.push((*name, fetch::unrenewed(context, name, &held.id, error)).into());
        }
    }
    unrefreshed
}
