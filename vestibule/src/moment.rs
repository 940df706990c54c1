//! Moments: the monotonic clock's time to measure from, and the wall clock's to show.

#[cfg(target_os = "linux")]
use rustix::time::{ClockId, clock_gettime};
use serde::{Serialize, Serializer};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

/// The longest time that is added to a moment.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The smallest difference that shows that somebody has set the wall clock. Both clocks cannot be read at once, and the time
/// shown must not change by what lies between.
const CLOCK_WAS_SET: time::Duration = time::Duration::SECOND;

/// A moment in the life of this process. The time since then is right even if somebody sets the wall clock.
///
/// The monotonic clock stands still while the machine is suspended, so that time does not count. It is added only to show the
/// moment, or its age.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The time that the wall clock said at that moment.
    recorded: OffsetDateTime,
    since: Instant,
    /// The time for which the machine had been suspended before.
    suspended: time::Duration,
}

impl Moment {
    /// Returns the moment that is now.
    pub(crate) fn now() -> Self {
        Self { recorded: OffsetDateTime::now_utc(), since: Instant::now(), suspended: suspended() }
    }

    /// Returns its time by the wall clock as that is set now, to show it. So all times that are shown together are by one
    /// clock.
    pub(crate) fn at(self) -> OffsetDateTime {
        let now = Self::now();
        let to_come = self.since.saturating_duration_since(now.since);
        let by_clock_of_now = now.recorded + to_come - self.age_at(now);
        if (by_clock_of_now - self.recorded).abs() < CLOCK_WAS_SET { self.recorded } else { by_clock_of_now }
    }

    /// Returns the time of an end, to show it. As for [`left`](Self::left), it is that of the clock which reaches it first.
    pub(crate) fn ends_at(self) -> OffsetDateTime {
        self.at().min(self.recorded)
    }

    /// Returns the moment that is this much later. A century is the most.
    pub(crate) fn plus(self, duration: Duration) -> Self {
        let duration = duration.min(CENTURY);
        Self { recorded: self.recorded + duration, since: self.since + duration, ..self }
    }

    /// Returns the time until that moment, by the clock that reaches it first: a machine may be suspended, and a clock may
    /// be set.
    pub(crate) fn left(self) -> Duration {
        let by_wall_clock = Duration::try_from(self.recorded - OffsetDateTime::now_utc()).unwrap_or_default();
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

    /// Returns the time since that moment, to show it: the time for which the machine was suspended counts.
    pub(crate) fn age(self) -> Duration {
        // Both clocks cannot be read at once, so it may be slightly negative.
        Duration::try_from(self.age_at(Self::now())).unwrap_or_default()
    }

    fn age_at(self, now: Self) -> time::Duration {
        now.since.saturating_duration_since(self.since) + (now.suspended - self.suspended)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        time::serde::rfc3339::serialize(&self.at(), serializer)
    }
}

/// Returns the time for which the machine has been suspended so far. In a time namespace (time_namespaces(7)), it begins
/// with another number than zero.
#[cfg(target_os = "linux")]
fn suspended() -> time::Duration {
    let difference = clock_gettime(ClockId::Boottime) - clock_gettime(ClockId::Monotonic);
    time::Duration::seconds(difference.tv_sec) + time::Duration::nanoseconds(difference.tv_nsec)
}

/// Returns zero: this system does not say it.
#[cfg(not(target_os = "linux"))]
fn suspended() -> time::Duration {
    time::Duration::ZERO
}

#[cfg(test)]
impl Moment {
    /// Returns this moment as a process has it whose wall clock was set by `jump` since then.
    pub(crate) fn before_a_jump(self, jump: time::Duration) -> Self {
        Self { recorded: self.recorded - jump, ..self }
    }

    /// Returns this moment as a process has it whose machine was suspended for `length` since then.
    pub(crate) fn before_a_suspension(self, length: time::Duration) -> Self {
        Self { recorded: self.recorded - length, suspended: self.suspended - length, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration as Span;

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_shown_by_the_clock_as_it_is_set_now() {
        let hour = Duration::from_secs(60 * 60);
        for jump in [Span::ZERO, Span::days(2), Span::days(-2)] {
            let moment = Moment::now().before_a_jump(jump);
            tokio::time::advance(hour).await;
            let age = OffsetDateTime::now_utc() - moment.at();
            assert!((age - Span::HOUR).abs() < Span::MINUTE, "{jump}: {age}");
        }
        let moment = Moment::now();
        assert_eq!((moment.at(), moment.ends_at()), (moment.recorded, moment.recorded), "nobody has set the clock");
    }

    #[test]
    fn the_time_for_which_the_machine_was_suspended_counts_in_a_moment_that_is_shown() {
        let moment = Moment::now().before_a_suspension(Span::HOUR);
        let in_a_day = moment.plus(Duration::from_secs(24 * 60 * 60));
        assert_eq!((moment.at(), in_a_day.at()), (moment.recorded, in_a_day.recorded), "nobody has set the clock");
        let jumped = moment.before_a_jump(Span::days(2));
        for age in [OffsetDateTime::now_utc() - jumped.at(), jumped.age().try_into().unwrap()] {
            assert!((age - Span::HOUR).abs() < Span::MINUTE, "{age}");
        }
    }

    #[test]
    fn an_end_is_shown_by_the_clock_that_reaches_it_first() {
        let in_an_hour = Moment::now().plus(Duration::from_secs(60 * 60));
        for (jump, left) in [(Span::ZERO, 1), (Span::days(-2), 1), (Span::hours(3), -2)] {
            let shown = in_an_hour.before_a_jump(jump).ends_at() - OffsetDateTime::now_utc();
            assert!((shown - Span::hours(left)).abs() < Span::MINUTE, "{jump}: {shown}");
        }
    }
}
