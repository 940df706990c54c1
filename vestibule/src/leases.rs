//! Requests a reload while the lease of a credential in service ends soon.

use crate::{
    application::{Application, Live},
    reload_requests::ReloadRequests,
    secrets::{held::HeldCredentials, lease::SecretLease},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The shortest and the longest time after which a lease that is still due has a reload requested again. In between, it is a
/// tenth of the time that is left.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Requests a reload while the lease of a version in service is due. Ends when `stopping` is cancelled.
pub(crate) async fn watch<A: Application>(
    mut live: Live<A>,
    requests: Arc<ReloadRequests>,
    stopping: CancellationToken,
) {
    let mut pause = Duration::ZERO;
    loop {
        let (leases, drain) = {
            let generation = live.generation();
            (leases_of(&generation.credentials), generation.config.server.drain)
        };
        let due = async {
            sleep(pause).await;
            until_one_is_due(&leases, drain).await;
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            is_live = live.changed() => {
                if !is_live {
                    return;
                }
                pause = Duration::ZERO;
            }
            () = due => {
                requests.request_for_due_lease();
                let left = leases.iter().map(|lease| lease.end().left()).filter(|left| !left.is_zero()).min();
                pause = left.map_or(LONGEST_PAUSE, |left| (left / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
            }
        }
    }
}

fn leases_of(credentials: &HeldCredentials) -> Vec<Arc<SecretLease>> {
    credentials.iter().filter_map(|(_, held)| held.lease.clone()).collect()
}

/// Waits until one of these is due. Waits for ever if there is none.
async fn until_one_is_due(leases: &[Arc<SecretLease>], drain: Duration) {
    let mut waiting: FuturesUnordered<_> = leases.iter().map(|lease| lease.until_due(drain)).collect();
    if waiting.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}
