//! The metrics of authentication.

use crate::metrics::{Counter, Gauge, MetricsRegistry, unix_seconds};
use prometheus_client::metrics::family::Family;
use std::sync::atomic::AtomicU64;
use time::OffsetDateTime;

type ByOutcome = Family<[(&'static str, &'static str); 1], Counter>;

/// The metrics of authentication. Labels are words of a fixed list, and the configured issuer.
#[derive(Clone)]
pub(crate) struct AuthMetrics {
    tokens: ByOutcome,
    fetches: ByOutcome,
    fetched: Family<[(&'static str, String); 1], Gauge<f64, AtomicU64>>,
}

/// The outcome of a request that needs a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenOutcome {
    Accepted,
    /// It had none.
    Missing,
    Refused,
    /// The keys are too old to say.
    StaleKeys,
}

impl TokenOutcome {
    const ALL: [Self; 4] = [Self::Accepted, Self::Missing, Self::Refused, Self::StaleKeys];

    fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Missing => "missing",
            Self::Refused => "refused",
            Self::StaleKeys => "stale_keys",
        }
    }
}

impl AuthMetrics {
    /// Registers the metrics. Call it once per process.
    pub(crate) fn register(metrics: &MetricsRegistry) -> Self {
        let auth = Self { tokens: Family::default(), fetches: Family::default(), fetched: Family::default() };
        let help = "Requests to routes that need a token, by the outcome of its verification";
        metrics.register("vestibule_auth_tokens", help, auth.tokens.clone());
        let help = "Fetches of the issuer's keys, by outcome";
        metrics.register("vestibule_auth_key_fetches", help, auth.fetches.clone());
        let help = "The time at which the issuer's keys were last fetched; absent if authentication is off";
        metrics.register("vestibule_auth_keys_fetched_timestamp_seconds", help, auth.fetched.clone());
        auth
    }

    /// Adds each series with 0.
    pub(super) fn begin(&self) {
        for outcome in TokenOutcome::ALL {
            drop(self.tokens.get_or_create(&[("outcome", outcome.label())]));
        }
        for outcome in ["fetched", "failed"] {
            drop(self.fetches.get_or_create(&[("outcome", outcome)]));
        }
    }

    pub(super) fn count(&self, outcome: TokenOutcome) {
        self.tokens.get_or_create(&[("outcome", outcome.label())]).inc();
    }

    pub(super) fn fetched(&self, issuer: &str) {
        self.fetches.get_or_create(&[("outcome", "fetched")]).inc();
        let now = unix_seconds(OffsetDateTime::now_utc());
        self.fetched.get_or_create_owned(&[("issuer", issuer.to_owned())]).set(now);
    }

    pub(super) fn fetch_failed(&self) {
        self.fetches.get_or_create(&[("outcome", "failed")]).inc();
    }
}
