//! Moments: the wall clock's time to show, and the monotonic clock's to measure from.

use serde::{Serialize, Serializer};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

/// The longest time that is added to a moment.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A moment in the life of this process. The time since then is right even if somebody sets the wall clock.
///
/// The monotonic clock stands still while the machine is suspended, so that time does not count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: OffsetDateTime,
    since: Instant,
}

impl Moment {
    /// Returns the moment that is now.
    pub(crate) fn now() -> Self {
        Self { at: OffsetDateTime::now_utc(), since: Instant::now() }
    }

    /// Returns the time that the wall clock said at that moment, to show it.
    pub(crate) fn at(self) -> OffsetDateTime {
        self.at
    }

    /// Returns the moment that is this much later. A century is the most.
    pub(crate) fn plus(self, duration: Duration) -> Self {
        let duration = duration.min(CENTURY);
        Self { at: self.at + duration, since: self.since + duration }
    }

    /// Returns the time until that moment, by the clock that reaches it first: a machine may be suspended, and a clock may
    /// be set.
    pub(crate) fn left(self) -> Duration {
        let by_wall_clock = Duration::try_from(self.at - OffsetDateTime::now_utc()).unwrap_or_default();
        self.since.saturating_duration_since(Instant::now()).min(by_wall_clock)
    }

    /// Returns `true` if that moment has come by the monotonic clock, which nobody can set.
    pub(crate) fn has_come(self) -> bool {
        self.since <= Instant::now()
    }

    pub(crate) fn is_before(self, other: Self) -> bool {
        self.since < other.since
    }

    /// Returns the later one.
    pub(crate) fn later(self, other: Self) -> Self {
        if other.since > self.since { other } else { self }
    }

    /// Returns the time since that moment.
    pub(crate) fn elapsed(self) -> Duration {
        self.since.elapsed()
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        time::serde::rfc3339::serialize(&self.at, serializer)
    }
}

#[cfg(test)]
impl Moment {
    /// Returns this moment as a process has it whose wall clock was set by `jump` since then.
    pub(crate) fn before_a_jump(self, jump: time::Duration) -> Self {
        Self { at: self.at - jump, ..self }
    }
}
