//! Requests a reload when the lease of a credential in service ends soon.

use crate::{
    application::{Application, Live},
    reload_requests::ReloadRequests,
    secrets::{
        credential::Name,
        held::{HeldCredential, HeldCredentials},
        id::VersionId,
        lease::SecretLease,
    },
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Requests one reload for each version in service whose lease is due. If that reload fails, retries follow. Ends when
/// `stopping` is cancelled.
pub(crate) async fn watch<A: Application>(
    mut live: Live<A>,
    requests: Arc<ReloadRequests>,
    stopping: CancellationToken,
) {
    let mut asked = BTreeSet::new();
    loop {
        let (leases, drain) = {
            let generation = live.generation();
            (leases_of(&generation.credentials), generation.config.server.drain)
        };
        asked.retain(|version| leases.contains_key(version));
        let mut waiting: FuturesUnordered<_> = leases
            .into_iter()
            .filter(|(version, _)| !asked.contains(version))
            .map(|one| until_due(one, drain))
            .collect();
        tokio::select! {
            () = stopping.cancelled() => return,
            is_live = live.changed() => if !is_live { return },
            Some(version) = waiting.next() => {
                asked.insert(version);
                requests.request_for_due_lease();
            }
        }
    }
}

type LeasedVersion = (Name, VersionId);

fn leases_of(credentials: &HeldCredentials) -> BTreeMap<LeasedVersion, Arc<SecretLease>> {
    let lease_of = |(name, held): (Name, &HeldCredential)| Some(((name, held.in_use().clone()), held.lease.clone()?));
    credentials.iter().filter_map(lease_of).collect()
}

async fn until_due((version, lease): (LeasedVersion, Arc<SecretLease>), drain: Duration) -> LeasedVersion {
    lease.until_due(drain).await;
    version
}
