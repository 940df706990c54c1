//! Generations that were replaced: the log says if something of one is still held a minute later.

use crate::status::draining::DrainingGeneration;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// The time for which something of a generation may be held after it was replaced before the log says so.
const LONG_HELD: Duration = Duration::from_secs(60);

/// Generations that were replaced less than a minute ago, oldest first, each with the time at which to look at it.
#[derive(Default)]
pub(super) struct ReplacedGenerations(VecDeque<(Instant, DrainingGeneration)>);

impl ReplacedGenerations {
    /// Adds a generation that was just replaced.
    pub(super) fn add(&mut self, replaced: DrainingGeneration) {
        self.0.push_back((Instant::now() + LONG_HELD, replaced));
    }

    /// Returns the time at which to look at the oldest one.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|(at, _)| *at)
    }

    /// Forgets the oldest one, and logs it if something of it is still held.
    pub(super) fn warn_if_held(&mut self) {
        let Some((_, replaced)) = self.0.pop_front() else { return };
        if replaced.is_in_use() {
            tracing::warn!(
                generation = replaced.number,
                generation.holders = %replaced.holders(),
                "a generation is still held a minute after it was replaced"
            );
        }
    }
}
