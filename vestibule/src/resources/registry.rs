//! The resources of one generation.

use super::{
    breaker::ProbeReason,
    rejection::Rejection,
    resource::{Connections, Resource},
};
use crate::secrets::credential::Name;
use futures_util::future::{BoxFuture, join_all};
use std::{any::Any, collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// [`Resource`], whatever its type.
pub(crate) trait ErasedResource: Send + Sync {
    fn any(&self) -> &dyn Any;
    fn publish(&self);
    fn rejection(&self) -> Option<Rejection>;
    fn probe(&self, reason: ProbeReason, deadline: Instant) -> BoxFuture<'_, ()>;
    fn retire(&self, successor: Option<&dyn Any>);
    fn connections(&self) -> Option<Connections>;
    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<R: Resource> ErasedResource for R {
    fn any(&self) -> &dyn Any {
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
        Resource::retire(self, successor.and_then(|any| any.downcast_ref()));
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
    pub(crate) built: BTreeMap<Name, BuiltResource>,
}

#[derive(Clone)]
pub(crate) struct BuiltResource {
    /// What it was built from: versions and settings. Equal origins make equal resources.
    pub(crate) origin: String,
    /// The same one in each generation that it was carried over to.
    pub(crate) resource: Arc<dyn ErasedResource>,
}

impl ResourceRegistry {
    pub(crate) fn publish(&self) {
        for made in self.built.values() {
            made.resource.publish();
        }
    }

    /// Tries what is refused again, if that is not too often.
    pub(crate) async fn probe(&self, reason: ProbeReason, deadline: Instant) {
        join_all(self.built.values().map(|made| made.resource.probe(reason, deadline))).await;
    }

    /// What the other sides refuse at this moment.
    pub(crate) fn rejections(&self) -> Vec<Rejection> {
        self.built.values().filter_map(|made| made.resource.rejection()).collect()
    }

    /// Retires what `successor` did not carry over.
    pub(crate) fn retire(&self, successor: &Self) {
        for (name, made) in &self.built {
            let next = successor.built.get(name);
            if next.is_none_or(|next| next.origin != made.origin) {
                made.resource.retire(next.map(|next| next.resource.any()));
            }
        }
    }

    /// The pools, each with an address that tells it from all others while this is held.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (*const (), Connections)> {
        let pool = |made: &BuiltResource| Some((Arc::as_ptr(&made.resource).cast(), made.resource.connections()?));
        self.built.values().filter_map(pool)
    }

    pub(crate) async fn close(&self) {
        for made in self.built.values() {
            made.resource.close().await;
        }
    }

    pub(crate) fn get<R: Resource>(&self, name: Name) -> Option<(&BuiltResource, &R)> {
        let made = self.built.get(name)?;
        Some((made, made.resource.any().downcast_ref()?))
    }
}
