//! The clock of a scripted manager.

use std::time::SystemTime;

use aws_sdk_secretsmanager::primitives::{DateTime, DateTimeFormat};
use axum::http::{HeaderMap, HeaderValue};

/// The largest difference between the manager's clock and the time of a request, in seconds.
const TOLERANCE: u64 = 5 * 60;

/// The time at the manager. It may differ from the time here.
pub(super) struct ManagerClock(DateTime);

impl ManagerClock {
    /// Returns the time at a manager whose clock is ahead by this many seconds.
    pub(super) fn ahead(seconds: i64) -> Self {
        Self(DateTime::from_secs(DateTime::from(SystemTime::now()).secs() + seconds))
    }

    /// Returns `true` if the request was signed at about this time.
    pub(super) fn accepts(&self, headers: &HeaderMap) -> bool {
        signed_at(headers).is_some_and(|at| at.secs().abs_diff(self.0.secs()) <= TOLERANCE)
    }

    /// Returns the time as the header `Date`.
    pub(super) fn date(&self) -> HeaderValue {
        let date = self.0.fmt(DateTimeFormat::HttpDate).expect("the year has four digits");
        HeaderValue::try_from(date).expect("a date is ASCII")
    }
}

/// Reads `20260131T235959Z`.
fn signed_at(headers: &HeaderMap) -> Option<DateTime> {
    let (date, time) = headers.get("x-amz-date")?.to_str().ok()?.split_once('T')?;
    let (year, month, day) = (date.get(..4)?, date.get(4..6)?, date.get(6..)?);
    let (hour, minute, second) = (time.get(..2)?, time.get(2..4)?, time.get(4..)?);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}");
    DateTime::from_str(&text, DateTimeFormat::DateTime).ok()
}
