//! Waiting between attempts: exponential, capped, with full jitter, until a deadline.

use std::time::Duration;
use tokio::time::Instant;

/// Long enough for whoever answers at all.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

/// The pauses between the attempts at one thing.
#[derive(Clone)]
pub(crate) struct Backoff {
    ceiling: Duration,
    cap: Duration,
    deadline: Option<Instant>,
}

impl Backoff {
    /// From 0.1 s to 5 s, for what a caller waits for. Leaves time for the last attempt: one that is cut off says less
    /// than the one before it.
    pub(crate) fn until(deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline = deadline - LAST_ATTEMPT.min(left / 4);
        Self { ceiling: Duration::from_millis(100), cap: Duration::from_secs(5), deadline: Some(deadline) }
    }

    /// From 1 s to `cap`, without an end, for what nobody waits for.
    pub(crate) fn capped_at(cap: Duration) -> Self {
        Self { ceiling: Duration::from_secs(1), cap, deadline: None }
    }

    /// When the next attempt is due; `None`: there is no time left for one.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        let pause = self.ceiling.mul_f64(fastrand::f64());
        self.ceiling = self.cap.min(self.ceiling * 2);
        let next = Instant::now() + pause;
        self.deadline.is_none_or(|deadline| next < deadline).then_some(next)
    }

    /// Waits before the next attempt. `false`, at once: there is no time left for one.
    pub(crate) async fn wait(&mut self) -> bool {
        let Some(next) = self.next() else { return false };
        tokio::time::sleep_until(next).await;
        true
    }
}
