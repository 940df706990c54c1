//! Counts of reloads since the start of the process.

use super::reload_record::{ReloadOutcome, ReloadRecord, Trigger};
use std::collections::BTreeMap;

/// The upper bounds of the buckets, in seconds: from a poll that finds nothing new to a reload that ends at its
/// deadline.
const BOUNDS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, f64::INFINITY];

/// The number of reloads by trigger and outcome, and a histogram of their durations.
#[derive(Clone)]
pub(super) struct ReloadCounts {
    pub(super) counts: BTreeMap<(Trigger, ReloadOutcome), u64>,
    /// The number of reloads per bucket. A reload counts only in the first bucket whose bound it does not exceed.
    buckets: [u64; BOUNDS.len()],
    /// The duration of all reloads together, in seconds.
    pub(super) seconds: f64,
}

impl Default for ReloadCounts {
    /// Begins each pair with 0. If a series begins with 1, Prometheus does not see that increase.
    fn default() -> Self {
        let mut counts = BTreeMap::new();
        for trigger in Trigger::ALL {
            for outcome in ReloadOutcome::ALL {
                counts.insert((trigger, outcome), 0);
            }
        }
        Self { counts, buckets: [0; BOUNDS.len()], seconds: 0.0 }
    }
}

impl ReloadCounts {
    /// Counts a reload.
    pub(super) fn add(&mut self, reload: &ReloadRecord) {
        let seconds = reload.duration_ms as f64 / 1000.0;
        *self.counts.entry((reload.trigger, reload.outcome)).or_default() += 1;
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket] += 1;
        self.seconds += seconds;
    }

    /// Returns each bound with the number of reloads in its bucket alone.
    pub(super) fn buckets(&self) -> [(f64, u64); BOUNDS.len()] {
        std::array::from_fn(|i| (BOUNDS[i], self.buckets[i]))
    }
}
