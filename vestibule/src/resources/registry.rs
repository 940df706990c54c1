//! The registry: the resources of one generation, whatever their types.

use super::{
    breaker::ProbeReason,
    rejection::Rejection,
    resource::{Connections, Resource},
};
use crate::secrets::credential::Name;
use futures_util::future::{BoxFuture, join_all};
use std::{any::Any, collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// A [`Resource`] of any type. Its methods do what the methods of that trait do.
pub(crate) trait ErasedResource: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn publish(&self);
    fn rejection(&self) -> Option<Rejection>;
    fn probe(&self, reason: ProbeReason, deadline: Instant) -> BoxFuture<'_, ()>;
    fn retire(&self, successor: Option<&dyn Any>);
    fn connections(&self) -> Option<Connections>;
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<R: Resource> ErasedResource for R {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn publish(&self) {
        Resource::publish(self);
    }

    fn rejection(&self) -> Option<Rejection> {
        Resource::rejection(self)
    }

    fn probe(&self, reason: ProbeReason, deadline: Instant) -> BoxFuture<'_, ()> {
        Box::pin(Resource::probe(self, reason, deadline))
    }

    fn retire(&self, successor: Option<&dyn Any>) {
        let successor = match successor {
            Some(successor) => successor.downcast_ref(),
            None => None,
        };
        Resource::retire(self, successor);
    }

    fn connections(&self) -> Option<Connections> {
        Resource::connections(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(Resource::close(self))
    }
}

/// The resources of one generation.
#[derive(Default)]
pub(crate) struct ResourceRegistry {
    /// The resources, each under the name of its credential.
    pub(crate) built: BTreeMap<Name, BuiltResource>,
}

/// A resource, and the versions and settings that it was built from.
#[derive(Clone)]
pub(crate) struct BuiltResource {
    /// The versions and the settings, as text. Equal origins make equal resources.
    pub(crate) origin: String,
    /// The resource. Generations that it was carried over to share it.
    pub(crate) resource: Arc<dyn ErasedResource>,
}

impl ResourceRegistry {
    /// Tells all resources that their generation is in service.
    pub(crate) fn publish(&self) {
        for built in self.built.values() {
            built.resource.publish();
        }
    }

    /// Lets each resource try its rejected credential again, if its breaker allows that.
    pub(crate) async fn probe(&self, reason: ProbeReason, deadline: Instant) {
        join_all(self.built.values().map(|built| built.resource.probe(reason, deadline))).await;
    }

    /// Returns the rejections of the credentials that are rejected at this moment.
    pub(crate) fn rejections(&self) -> Vec<Rejection> {
        self.built.values().filter_map(|built| built.resource.rejection()).collect()
    }

    /// Retires the resources that `successor` did not carry over.
    pub(crate) fn retire(&self, successor: &Self) {
        for (name, built) in &self.built {
            match successor.built.get(name) {
                Some(next) if next.origin == built.origin => (),
                Some(next) => built.resource.retire(Some(next.resource.as_any())),
                None => built.resource.retire(None),
            }
        }
    }

    /// Returns the connections of each pool, with an address that is unique while this registry exists.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (*const (), Connections)> {
        self.built.values().filter_map(|built| {
            let connections = built.resource.connections()?;
            Some((Arc::as_ptr(&built.resource).cast(), connections))
        })
    }

    /// Closes all resources, one after the other.
    pub(crate) async fn close(&self) {
        for built in self.built.values() {
            built.resource.close().await;
        }
    }

    /// Returns the resource that was built from the credential `name`, if it is an `R`.
    pub(crate) fn get<R: Resource>(&self, name: Name) -> Option<(&BuiltResource, &R)> {
        let built = self.built.get(name)?;
        Some((built, built.resource.as_any().downcast_ref()?))
    }
}
