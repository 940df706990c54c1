//! The validity period of a certificate.

use std::time::{Duration, SystemTime};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The validity period of a certificate, to the second.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// The first moment.
    pub from: SystemTime,
    /// The last moment.
    pub until: SystemTime,
}

impl Validity {
    /// Returns a period that began an hour ago and ends after `length` from now.
    pub fn lasting(length: Duration) -> Self {
        let now = SystemTime::now();
        Self { from: now - HOUR, until: now + length }
    }

    /// Returns a period that began an hour ago and ends `count` days from now.
    pub fn days(count: u32) -> Self {
        Self::lasting(DAY * count)
    }

    /// Returns a period that ends after `left` from now, and began 90 days before its end, or an hour ago if that is earlier.
    pub fn ending_in(left: Duration) -> Self {
        let Self { from, until } = Self::lasting(left);
        Self { from: from.min(until - 90 * DAY), until }
    }

    /// Returns a period that ended a minute ago.
    pub fn over() -> Self {
        let now = SystemTime::now();
        Self { from: now - DAY, until: now - Duration::from_secs(60) }
    }

    /// Returns a period that begins in an hour.
    pub fn not_yet() -> Self {
        let now = SystemTime::now();
        Self { from: now + HOUR, until: now + DAY }
    }
}
