//! The registry: the resources of one generation, whatever their types.

use super::{breaker::ProbeReason, connection_counter::ConnectionCounter, rejection::Rejection, resource::Resource};
use crate::{
    caught::{caught, caught_future},
    secrets::credential::Name,
};
use futures_util::future::{BoxFuture, join_all};
use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};

/// A [`Resource`] of any type. Its methods do what the methods of that trait do.
pub(crate) trait ErasedResource: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn publish(&self);
    fn rejection(&self) -> Option<Rejection>;
    fn is_rejected(&self) -> bool;
    fn probe(&self, reason: ProbeReason, deadline: Instant) -> BoxFuture<'_, ()>;
    fn retire(&self, successor: Option<&dyn Any>);
    fn connections(&self) -> Option<ConnectionCounter>;
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<R: Resource> ErasedResource for R {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn publish(&self) {
        if let Some(breaker) = self.circuit_breaker() {
            breaker.publish();
        }
        Resource::publish(self);
    }

    fn rejection(&self) -> Option<Rejection> {
        Resource::rejection(self)
    }

    fn is_rejected(&self) -> bool {
        Resource::is_rejected(self)
    }

    fn probe(&self, reason: ProbeReason, deadline: Instant) -> BoxFuture<'_, ()> {
        Box::pin(Resource::probe(self, reason, deadline))
    }

    fn retire(&self, successor: Option<&dyn Any>) {
        if let Some(breaker) = self.circuit_breaker() {
            breaker.retire();
        }
        let successor = match successor {
            Some(successor) => successor.downcast_ref(),
            None => None,
        };
        Resource::retire(self, successor);
    }

    fn connections(&self) -> Option<ConnectionCounter> {
        Resource::connections(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(Resource::close(self))
    }
}

/// The longest time for which a stop waits for a resource to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(6);

/// The resources of one generation. Their methods may be of a service's own: a panic in one must not end the reload actor, or a
/// publication in the middle.
#[derive(Default)]
pub(crate) struct ResourceRegistry {
    pub(crate) built: BTreeMap<ResourceKey, BuiltResource>,
}

/// The place of a resource in its generation: the position of its call in `build`, among those with the same credential
/// and type. The settings are no part of it, because a resource must find its predecessor when they change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResourceKey {
    pub(crate) credential: Name,
    resource_type: TypeId,
    pub(crate) position: usize,
}

impl ResourceKey {
    /// Returns the key of the first resource of this type that is made from `credential`.
    pub(crate) fn first<R: Resource>(credential: Name) -> Self {
        Self { credential, resource_type: TypeId::of::<R>(), position: 0 }
    }
}

/// A resource, and the versions and settings that it was built from.
#[derive(Clone)]
pub(crate) struct BuiltResource {
    /// The versions and the settings, as text. Equal origins make equal resources.
    pub(crate) origin: String,
    /// The resource. Generations that it was carried over to share it.
    pub(crate) resource: Arc<dyn ErasedResource>,
}

/// The resources of one generation, for a reader who asks if their credentials are rejected. It keeps none of them alive.
#[derive(Clone, Default)]
pub(crate) struct RejectionObserver(Vec<(Name, Weak<dyn ErasedResource>)>);

impl RejectionObserver {
    /// Returns each credential with a resource, and `true` if the other side of one of its resources rejects it.
    pub(crate) fn rejected(&self) -> BTreeMap<Name, bool> {
        let mut rejected = BTreeMap::new();
        for (name, resource) in &self.0 {
            if let Some(resource) = resource.upgrade() {
                *rejected.entry(*name).or_default() |= caught(|| resource.is_rejected()).unwrap_or_default();
            }
        }
        rejected
    }
}

impl ResourceRegistry {
    /// Returns an observer of the rejections of these resources.
    pub(crate) fn rejection_observer(&self) -> RejectionObserver {
        let resources = self.built.iter().map(|(key, built)| (key.credential, Arc::downgrade(&built.resource)));
        RejectionObserver(resources.collect())
    }

    /// Tells all resources that their generation is in service.
    pub(crate) fn publish(&self) {
        for built in self.built.values() {
            caught(|| built.resource.publish());
        }
    }

    /// Lets each resource try its rejected credential again, if its breaker allows that. A resource that does not end by
    /// the deadline is not waited for.
    pub(crate) async fn probe(&self, reason: ProbeReason, deadline: Instant) {
        let probes = self.built.values().map(|built| {
            let probe = async { built.resource.probe(reason, deadline).await };
            timeout_at(deadline, caught_future(probe))
        });
        join_all(probes).await;
    }

    /// Returns the rejections of the credentials that are rejected at this moment, one for each credential.
    pub(crate) fn rejections(&self) -> Vec<Rejection> {
        let mut rejections: Vec<Rejection> =
            self.built.values().filter_map(|built| caught(|| built.resource.rejection())?).collect();
        // The keys begin with the credential, so the resources of one are neighbours.
        rejections.dedup_by_key(|rejection| rejection.credential);
        rejections
    }

    /// Retires the resources that `successor` did not carry over.
    pub(crate) fn retire(&self, successor: &Self) {
        for (key, built) in &self.built {
            match successor.built.get(key) {
                Some(next) if next.origin == built.origin => (),
                Some(next) => _ = caught(|| built.resource.retire(Some(next.resource.as_any()))),
                None => _ = caught(|| built.resource.retire(None)),
            }
        }
    }

    /// Returns the counts of open connections, each with the name of its credential.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (Name, ConnectionCounter)> {
        self.built.iter().filter_map(|(key, built)| Some((key.credential, caught(|| built.resource.connections())??)))
    }

    /// Closes all resources at the same time. A resource that takes longer than [`CLOSE_TIMEOUT`] is not waited for.
    pub(crate) async fn close(&self) {
        let closing = self.built.iter().map(|(key, built)| async move {
            let close = caught_future(async { built.resource.close().await });
            if timeout(CLOSE_TIMEOUT, close).await.is_err() {
                tracing::warn!(credential = key.credential, "a resource did not close in time; stopping without it");
            }
        });
        join_all(closing).await;
    }

    /// Returns the resource under `key`, if it is an `R`.
    pub(crate) fn get<R: Resource>(&self, key: ResourceKey) -> Option<(&BuiltResource, &R)> {
        let built = self.built.get(&key)?;
        Some((built, built.resource.as_any().downcast_ref()?))
    }
}
