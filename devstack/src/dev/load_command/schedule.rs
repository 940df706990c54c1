//! The times at which requests are due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The times at which requests are due. All clients take their requests from it.
pub(super) struct Schedule {
    pub(super) start: Instant,
    /// Requests per second.
    rate: u32,
    /// The number of requests that clients have taken.
    taken: AtomicU64,
}

impl Schedule {
    pub(super) fn new(start: Instant, rate: u32) -> Self {
        Self { start, rate, taken: AtomicU64::new(0) }
    }

    /// Takes the next request: its number, and its time, which may have passed.
    pub(super) fn next(&self) -> (u64, Instant) {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        (number, self.start + Duration::from_secs(number) / self.rate)
    }

    /// Returns the number of requests that are due before `end`.
    pub(super) fn due_before(&self, end: Instant) -> u64 {
        const SECOND: u128 = Duration::from_secs(1).as_nanos();
        let due = ((end - self.start).as_nanos() * u128::from(self.rate)).div_ceil(SECOND);
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}
