//! Pauses between attempts: exponential, capped, with full jitter, until a deadline.
//!
//! Full jitter: each pause is random, from zero to a ceiling. The ceiling doubles after each pause, up to a cap.

use std::time::Duration;
use tokio::time::Instant;

/// The time that is left for the last attempt. Most answers arrive within it.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

/// The pauses between repeated attempts.
#[derive(Clone)]
pub(crate) struct Backoff {
    /// The longest that the next pause may be.
    ceiling: Duration,
    /// The longest ceiling.
    cap: Duration,
    deadline: Option<Instant>,
}

impl Backoff {
    /// Makes pauses that end before `deadline`. The ceiling is 0.1 s at first, and 5 s at most.
    ///
    /// Leaves time for the last attempt to finish: a timeout would hide the more useful error before it.
    pub(crate) fn until(deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline = deadline - LAST_ATTEMPT.min(left / 4);
        Self { ceiling: Duration::from_millis(100), cap: Duration::from_secs(5), deadline: Some(deadline) }
    }

    /// Makes pauses without an end. The ceiling is 1 s at first, and `cap` at most.
    pub(crate) fn capped_at(cap: Duration) -> Self {
        Self::from_to(Duration::from_secs(1), cap)
    }

    /// Makes pauses without an end. The ceiling is `first` at first, and `cap` at most.
    pub(crate) fn from_to(first: Duration, cap: Duration) -> Self {
        Self { ceiling: first, cap, deadline: None }
    }

    /// Makes pauses that end after this time from now. The ceiling is 1 s at first, and 5 s at most.
    pub(crate) fn lasting(time: Duration) -> Self {
        Self { deadline: Some(Instant::now() + time), ..Self::from_to(Duration::from_secs(1), Duration::from_secs(5)) }
    }

    /// Returns the time of the next attempt, or `None` if there is no time left for one.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        let pause = self.ceiling.mul_f64(fastrand::f64());
        self.ceiling = self.cap.min(self.ceiling * 2);
        let next = Instant::now() + pause;
        match self.deadline {
            Some(deadline) if next >= deadline => None,
            _ => Some(next),
        }
    }

    /// Waits until the next attempt is due. Returns `false` at once if there is no time left for one.
    pub(crate) async fn wait(&mut self) -> bool {
        let Some(next) = self.next() else { return false };
        tokio::time::sleep_until(next).await;
        true
    }
}
