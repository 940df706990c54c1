//! Generations that were replaced: the log says if one is still held a minute later.

use crate::application::{Application, Generation};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// The time that a generation may be held after it was replaced before the log says so.
const LONG_HELD: Duration = Duration::from_secs(60);

/// Generations that were replaced less than a minute ago, oldest first, each with the time at which to look at it.
pub(super) struct ReplacedGenerations<A: Application>(VecDeque<(Instant, Weak<Generation<A>>)>);

impl<A: Application> ReplacedGenerations<A> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Adds `before`, unless it is still the generation in service.
    pub(super) fn add(&mut self, before: &Arc<Generation<A>>, in_service: &Arc<Generation<A>>) {
        if !Arc::ptr_eq(before, in_service) {
            self.0.push_back((Instant::now() + LONG_HELD, Arc::downgrade(before)));
        }
    }

    /// Returns the time at which to look at the oldest one.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|(at, _)| *at)
    }

    /// Forgets the oldest one, and logs it if it is still held.
    pub(super) fn warn_if_held(&mut self) {
        let Some((_, generation)) = self.0.pop_front() else { return };
        let Some(generation) = generation.upgrade() else { return };
        tracing::warn!(
            generation = generation.number,
            generation.holders = Arc::strong_count(&generation) - 1,
            "a generation is still held a minute after it was replaced, by requests in flight or by tasks that keep it"
        );
    }
}
