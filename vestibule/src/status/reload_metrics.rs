//! Metrics of reloads since the start of the process.

use super::reload_record::{ReloadOutcome, ReloadRecord, Trigger};
use crate::metrics::{Counter, Histogram, MetricsRegistry};
use prometheus_client::metrics::family::Family;

/// The upper bounds of the buckets, in seconds: from a poll that finds nothing new to a reload that ends at its
/// deadline.
const BOUNDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// The number of reloads by trigger and outcome, and a histogram of their durations.
#[derive(Clone)]
pub(super) struct ReloadMetrics {
    counts: Family<[(&'static str, String); 2], Counter>,
    seconds: Histogram,
}

impl ReloadMetrics {
    /// Registers the metrics. Begins each pair with 0: if a series begins with 1, Prometheus does not see that increase.
    pub(super) fn register(metrics: &MetricsRegistry) -> Self {
        let reloads = Self { counts: Family::default(), seconds: Histogram::new(BOUNDS) };
        for trigger in Trigger::ALL {
            for outcome in ReloadOutcome::ALL {
                reloads.counts.get_or_create_owned(&labels(trigger, outcome));
            }
        }
        let help = "Reloads that ended, by trigger and outcome";
        metrics.register("vestibule_reloads", help, reloads.counts.clone());
        let help = "The duration of reloads, of every outcome";
        metrics.register("vestibule_reload_duration_seconds", help, reloads.seconds.clone());
        reloads
    }

    /// Counts a reload.
    pub(super) fn add(&self, reload: &ReloadRecord) {
        self.counts.get_or_create(&labels(reload.trigger, reload.outcome)).inc();
        self.seconds.observe(reload.duration_ms as f64 / 1000.0);
    }
}

fn labels(trigger: Trigger, outcome: ReloadOutcome) -> [(&'static str, String); 2] {
    [("trigger", trigger.to_string()), ("outcome", outcome.to_string())]
}
