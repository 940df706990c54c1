//! How reloads went, counted since the start.

use super::reload_record::{ReloadOutcome, ReloadRecord, Trigger};
use std::collections::BTreeMap;

/// The upper bounds of the buckets, in seconds: from a poll that finds nothing to a reload that meets its deadline.
const BOUNDS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, f64::INFINITY];

/// Reloads by what set them off and how they ended, and how long they took.
#[derive(Clone)]
pub(super) struct ReloadCounts {
    pub(super) counts: BTreeMap<(Trigger, ReloadOutcome), u64>,
    /// By the first bound that a reload did not pass.
    buckets: [u64; BOUNDS.len()],
    /// Of all together.
    pub(super) seconds: f64,
}

impl Default for ReloadCounts {
    /// A zero for each pair: where a series begins with its first increment, Prometheus sees no increase.
    fn default() -> Self {
        let pairs =
            Trigger::ALL.into_iter().flat_map(|trigger| ReloadOutcome::ALL.map(|outcome| ((trigger, outcome), 0)));
        Self { counts: pairs.collect(), buckets: [0; BOUNDS.len()], seconds: 0.0 }
    }
}

impl ReloadCounts {
    pub(super) fn add(&mut self, reload: &ReloadRecord) {
        let seconds = reload.duration_ms as f64 / 1000.0;
        *self.counts.entry((reload.trigger, reload.outcome)).or_default() += 1;
        self.buckets[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.seconds += seconds;
    }

    /// Each bound, with the reloads of its bucket alone.
    pub(super) fn buckets(&self) -> [(f64, u64); BOUNDS.len()] {
        std::array::from_fn(|i| (BOUNDS[i], self.buckets[i]))
    }
}
