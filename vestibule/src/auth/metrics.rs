//! The metrics of authentication.

use crate::metrics::{Counter, MetricsRegistry};
use prometheus_client::metrics::family::Family;

type ByOutcome = Family<[(&'static str, &'static str); 1], Counter>;

/// The metrics of authentication. Labels are words of a fixed list.
#[derive(Clone)]
pub(crate) struct AuthMetrics {
    tokens: ByOutcome,
    fetches: ByOutcome,
}

/// The outcome of a request that needs a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenOutcome {
    Accepted,
    /// It had none.
    Missing,
    Refused,
    /// It is too soon to look its key up.
    UnknownKey,
    /// The keys are too old to say, or the issuer does not answer with newer ones.
    StaleKeys,
}

impl TokenOutcome {
    const ALL: [Self; 5] = [Self::Accepted, Self::Missing, Self::Refused, Self::UnknownKey, Self::StaleKeys];

    fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Missing => "missing",
            Self::Refused => "refused",
            Self::UnknownKey => "unknown_key",
            Self::StaleKeys => "stale_keys",
        }
    }
}

impl AuthMetrics {
    /// Registers the metrics. Call it once per process.
    pub(crate) fn register(metrics: &MetricsRegistry) -> Self {
        let auth = Self { tokens: Family::default(), fetches: Family::default() };
        let help = "Requests to routes that need a token, by the outcome of its verification";
        metrics.register("vestibule_auth_tokens", help, auth.tokens.clone());
        let help = "Fetches of the issuer's keys, by outcome";
        metrics.register("vestibule_auth_key_fetches", help, auth.fetches.clone());
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

    pub(super) fn fetched(&self) {
        self.fetches.get_or_create(&[("outcome", "fetched")]).inc();
    }

    pub(super) fn fetch_failed(&self) {
        self.fetches.get_or_create(&[("outcome", "failed")]).inc();
    }
}
