//! The end of a credential that expires by itself, and the time from which it must be replaced.

use serde::Serialize;
use time::{Duration, OffsetDateTime};

/// The time before its end from which a credential must be replaced, unless it is short-lived.
pub(crate) const LAST_DAYS: Duration = Duration::days(7);

/// The part of its lifetime in which a short-lived credential must be replaced. cert-manager and step-ca renew earlier, when
/// a third is left, so the new version has time to get to the manager, and into service with the next poll.
const LAST_PART: i32 = 5;

/// The end of a credential that expires by itself, as a certificate does, and the time from which it must be replaced.
///
/// It must be replaced in its last seven days, or in the last fifth of its lifetime if that is shorter.
///
/// It is serialized as its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Expiry {
    #[serde(with = "time::serde::rfc3339")]
    end: OffsetDateTime,
    #[serde(skip)]
    due: OffsetDateTime,
}

impl Expiry {
    /// Makes the expiry of a credential that is valid from `start` to `end`.
    pub fn between(start: OffsetDateTime, end: OffsetDateTime) -> Self {
        let last = ((end - start) / LAST_PART).clamp(Duration::ZERO, LAST_DAYS);
        Self { end, due: end.saturating_sub(last) }
    }

    /// Makes the expiry of a credential that is valid until `end`. Its start is not known, so its last days are seven.
    pub fn at(end: OffsetDateTime) -> Self {
        Self { end, due: end.saturating_sub(LAST_DAYS) }
    }

    /// Returns the expiry of credentials that are used together: the earliest end, and the earliest time at which one of
    /// them must be replaced.
    pub(crate) fn earliest(all: impl Iterator<Item = Self>) -> Option<Self> {
        all.reduce(|a, b| Self { end: a.end.min(b.end), due: a.due.min(b.due) })
    }

    pub(crate) fn end(self) -> OffsetDateTime {
        self.end
    }

    /// Returns the time from which it must be replaced: seven days before the end, or less.
    pub(crate) fn due(self) -> OffsetDateTime {
        self.due
    }

    pub(crate) fn is_due(self) -> bool {
        self.due <= OffsetDateTime::now_utc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn a_credential_is_due_in_its_last_seven_days_or_in_the_last_fifth_of_its_life() {
        for (lifetime, last) in [
            (Duration::hours(1), Duration::minutes(12)),
            (Duration::hours(24), Duration::minutes(288)),
            (Duration::days(34), Duration::days(34) / 5),
            (Duration::days(36), LAST_DAYS),
            (Duration::days(90), LAST_DAYS),
            (Duration::days(365), LAST_DAYS),
            (Duration::hours(-1), Duration::ZERO),
        ] {
            let expiry = Expiry::between(START, START + lifetime);
            assert_eq!((expiry.end() - START, expiry.end() - expiry.due()), (lifetime, last));
        }
        assert_eq!(Expiry::at(START).due(), START - LAST_DAYS, "it may be as old as it likes");
    }

    #[test]
    fn either_side_of_the_last_part_is_told_by_the_clock() {
        let (now, minute) = (OffsetDateTime::now_utc(), Duration::MINUTE);
        for lifetime in [Duration::hours(1), Duration::hours(24), Duration::days(90), Duration::days(365)] {
            let last = LAST_DAYS.min(lifetime / 5);
            for (left, is_due) in [(last + minute, false), (last - minute, true), (-minute, true)] {
                let end = now + left;
                assert_eq!(Expiry::between(end - lifetime, end).is_due(), is_due, "{lifetime} {left}");
            }
        }
    }

    #[test]
    fn what_is_used_together_ends_with_the_first_and_is_due_with_the_first() {
        let day = Expiry::between(START, START + Duration::DAY);
        let year = Expiry::between(START - Duration::days(360), START + Duration::days(5));
        let both = Expiry::earliest([day, year].into_iter()).unwrap();
        assert_eq!((both.end(), both.due()), (day.end(), year.due()));
        assert_eq!(Expiry::earliest(std::iter::empty()), None);
    }
}
