//! Pauses between attempts: exponential, capped, with full jitter, until a deadline.
//!
//! Full jitter: each pause is random, from zero to a ceiling. The ceiling doubles after each pause, or grows with the time
//! that the trouble has lasted, up to a cap.

use std::time::Duration;
use tokio::time::Instant;

/// The time that is left for the last attempt. Most answers arrive within it.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

/// The ceiling of the first pause between loads that look for a successor. Requests wait for it, and for no longer than
/// `database.acquire_timeout`. So these pauses grow slowly.
const FIRST_FOR_SUCCESSOR: Duration = Duration::from_millis(250);

/// The longest pause between these loads.
const LONGEST_FOR_SUCCESSOR: Duration = Duration::from_secs(15);

/// The pauses between repeated attempts.
#[derive(Clone)]
pub(crate) struct Backoff {
    /// The longest that the next pause may be.
    ceiling: Duration,
    /// The longest ceiling.
    cap: Duration,
    /// The time since which the ceiling grows. Without one, it doubles after each pause.
    since: Option<Instant>,
    deadline: Option<Instant>,
}

impl Backoff {
    /// Makes pauses that end [before](Self::before) `deadline`. The ceiling is 0.1 s at first, and 5 s at most.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self::from_to(Duration::from_millis(100), Duration::from_secs(5)).before(deadline)
    }

    /// Makes pauses without an end. The ceiling is 1 s at first, and `cap` at most.
    pub(crate) fn capped_at(cap: Duration) -> Self {
        Self::from_to(Duration::from_secs(1), cap)
    }

    /// Makes pauses without an end. The ceiling is `first` at first, and `cap` at most.
    pub(crate) fn from_to(first: Duration, cap: Duration) -> Self {
        Self { ceiling: first, cap, since: None, deadline: None }
    }

    /// Makes the pauses between loads that look for the successor of a rejected version. The ceiling is a third of the time from
    /// now to the beginning of the pause, but not less than 0.25 s, and not more than 15 s. So whoever waits for the successor
    /// waits for a third longer at most.
    pub(crate) fn for_successor() -> Self {
        Self { since: Some(Instant::now()), ..Self::from_to(FIRST_FOR_SUCCESSOR, LONGEST_FOR_SUCCESSOR) }
    }

    /// Makes pauses that end after this time from now. The ceiling is 1 s at first, and 5 s at most.
    pub(crate) fn lasting(time: Duration) -> Self {
        Self { deadline: Some(Instant::now() + time), ..Self::from_to(Duration::from_secs(1), Duration::from_secs(5)) }
    }

    /// Ends the pauses before `deadline`, and leaves time for the last attempt to finish: a timeout would hide the more useful
    /// error before it.
    pub(crate) fn before(self, deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        Self { deadline: Some(deadline - LAST_ATTEMPT.min(left / 4)), ..self }
    }

    /// Returns the time of the next attempt, or `None` if there is no time left for one.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        let pause = self.ceiling.mul_f64(fastrand::f64());
        let next = Instant::now() + pause;
        let grown = match self.since {
            Some(since) => self.ceiling.max((next - since) / 3),
            None => self.ceiling * 2,
        };
        self.ceiling = self.cap.min(grown);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_in_proportion_is_a_third_of_the_time_before_it_at_most() {
        for _ in 0..1000 {
            let (first, cap) = (FIRST_FOR_SUCCESSOR, LONGEST_FOR_SUCCESSOR);
            let (began, mut pauses) = (Instant::now(), Backoff::for_successor());
            let mut tries = 0;
            while began.elapsed() < Duration::from_secs(60) {
                let before = Instant::now();
                assert!(pauses.wait().await);
                // The clock of tests counts milliseconds.
                let longest = first.max((before - began) / 3).min(cap) + Duration::from_millis(2);
                assert!(before.elapsed() <= longest, "{:?} after {:?}", before.elapsed(), before - began);
                tries += 1;
            }
            assert!(tries < 100, "{tries} tries in a minute");
        }
    }
}
