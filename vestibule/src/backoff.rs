//! Waiting between attempts: exponential, capped, with full jitter, until a deadline.

use std::time::Duration;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(5);

/// The pauses between the attempts at one thing.
pub(crate) struct Backoff {
    ceiling: Duration,
    deadline: Instant,
}

impl Backoff {
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { ceiling: FIRST, deadline }
    }

    /// Waits before the next attempt. `false`, at once: there is no time left for one.
    pub(crate) async fn wait(&mut self) -> bool {
        let pause = self.ceiling.mul_f64(fastrand::f64());
        self.ceiling = CAP.min(self.ceiling * 2);
        let next = Instant::now() + pause;
        if next >= self.deadline {
            return false;
        }
        tokio::time::sleep_until(next).await;
        true
    }
}
