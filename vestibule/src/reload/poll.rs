//! The poll: a reload without a signal, once in an interval. Replicas that started together drift apart.

use crate::jitter;
use std::time::Duration;
use tokio::time::Instant;

/// The time of the next poll. `None` if `secrets.refresh_every` is zero: never.
pub(super) struct Poll(pub(super) Option<Instant>);

impl Poll {
    /// Schedules the first poll, after a random part of the interval.
    pub(super) fn first(interval: Duration) -> Self {
        Self::after(interval, fastrand::f64())
    }

    /// Schedules the next poll: after the interval, with a jitter of 10 %.
    pub(super) fn next(interval: Duration) -> Self {
        Self::after(interval, jitter::factor(0.1))
    }

    fn after(interval: Duration, factor: f64) -> Self {
        if interval.is_zero() {
            return Self(None);
        }
        Self(Some(Instant::now() + interval.mul_f64(factor)))
    }
}
