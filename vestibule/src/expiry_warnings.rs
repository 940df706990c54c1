//! Warnings about credentials that expire, as certificates do.

use crate::{
    application::{Application, Live},
    secrets::{
        credential::Name,
        expiry::{Expiry, LAST_DAYS},
        id::VersionId,
    },
};
use std::{collections::BTreeMap, time::Duration};
use time::{Duration as Span, OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_util::sync::CancellationToken;

/// The longest sleep. Somebody may set the wall clock in the meantime.
const MAX_SLEEP: Duration = Duration::from_secs(60 * 60);

/// Logs each warning about a version in service once, when it is due. Ends when `stopping` is cancelled.
pub(crate) async fn watch<A: Application>(mut live: Live<A>, stopping: CancellationToken) {
    let mut warnings = Warnings::default();
    loop {
        let (generation, now) = (live.generation(), OffsetDateTime::now_utc());
        let expiring = generation
            .credentials
            .iter()
            // The framework itself replaces what has a lease.
            .filter(|(_, held)| held.lease.is_none())
            .filter_map(|(name, held)| Some(((name, held.in_use().clone()), held.expiry?)))
            .collect();
        let (due, pause) = warnings.take_due(expiring, now);
        drop(generation);
        for (version, expiry) in due {
            warn(&version, expiry.end(), now);
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            is_live = live.changed() => if !is_live { return },
            () = tokio::time::sleep(pause) => (),
        }
    }
}

type Version = (Name, VersionId);

/// The number of warnings that were logged about each version in service.
#[derive(Default)]
struct Warnings(BTreeMap<Version, usize>);

impl Warnings {
    /// Returns the versions about which a warning is due, and the time until the next one is. Counts these warnings as
    /// logged.
    fn take_due(
        &mut self,
        expiring: BTreeMap<Version, Expiry>,
        now: OffsetDateTime,
    ) -> (Vec<(Version, Expiry)>, Duration) {
        let logged_before = std::mem::take(&mut self.0);
        let (mut due, mut pause) = (Vec::new(), MAX_SLEEP);
        for (version, expiry) in expiring {
            let times = times_to_warn(expiry);
            let count = times.iter().filter(|time| **time <= now).count();
            if let Some(next) = times.get(count) {
                pause = pause.min((*next - now).unsigned_abs());
            }
            if count > logged_before.get(&version).copied().unwrap_or(0) {
                due.push((version.clone(), expiry));
            }
            self.0.insert(version, count);
        }
        (due, pause)
    }
}

/// Returns the times at which a warning is due, in order: 30, 7 and 1 days before the end, and the end. A version that is
/// short-lived gets none before it must be replaced.
fn times_to_warn(expiry: Expiry) -> [OffsetDateTime; 4] {
    let (end, due) = (expiry.end(), expiry.due());
    let first = if end - due < LAST_DAYS { due } else { end - Span::days(30) };
    [first, due, due.max(end - Span::DAY), end]
}

fn warn((credential, version): &Version, expires_at: OffsetDateTime, now: OffsetDateTime) {
    let left = expires_at - now;
    let expires = expires_at.format(&Rfc3339).unwrap_or_default();
    if left.is_positive() {
        tracing::warn!(
            credential,
            credential.version = %version,
            credential.expires = expires,
            credential.days_left = left.whole_days(),
            "a credential expires soon: rotate it"
        );
    } else {
        tracing::error!(
            credential,
            credential.version = %version,
            credential.expires = expires,
            "a credential has expired and is still in service: rotate it now"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    /// Returns the number of warnings that are due with this remaining lifetime, and the pause.
    fn take_due(warnings: &mut Warnings, version: &str, left: Span) -> (usize, Duration) {
        take_due_of(warnings, version, Expiry::at(END), left)
    }

    fn take_due_of(warnings: &mut Warnings, version: &str, expiry: Expiry, left: Span) -> (usize, Duration) {
        let expiring = [(("server_tls", VersionId::new(version)), expiry)].into();
        let (due, pause) = warnings.take_due(expiring, END - left);
        (due.len(), pause)
    }

    #[test]
    fn each_warning_is_logged_once_and_in_time() {
        let mut warnings = Warnings::default();
        let mut due_at = |left| take_due(&mut warnings, "v1", left);
        assert_eq!(due_at(Span::days(40)), (0, MAX_SLEEP));
        assert_eq!(due_at(Span::days(30) + Span::minutes(10)), (0, Duration::from_secs(600)));
        assert_eq!(due_at(Span::days(30)).0, 1);
        assert_eq!(due_at(Span::days(29)).0, 0);
        assert_eq!(due_at(Span::days(7) + Span::seconds(1)), (0, Duration::from_secs(1)));
        assert_eq!(due_at(Span::days(7)).0, 1);
        assert_eq!(due_at(Span::hours(3)), (1, MAX_SLEEP));
        assert_eq!(due_at(Span::minutes(3)), (0, Duration::from_secs(180)));
        assert_eq!(due_at(Span::seconds(-1)), (1, MAX_SLEEP));
        assert_eq!(due_at(Span::days(-1)), (0, MAX_SLEEP));
    }

    #[test]
    fn a_clock_that_jumps_and_is_set_right_loses_no_warning() {
        let mut warnings = Warnings::default();
        let mut due_at = |left| take_due(&mut warnings, "v1", left);
        assert_eq!(due_at(Span::days(40)), (0, MAX_SLEEP));
        assert_eq!(due_at(Span::days(-300)), (1, MAX_SLEEP), "the clock is a year ahead");
        assert_eq!(due_at(Span::days(40)), (0, MAX_SLEEP), "the clock is right again");
        assert_eq!(due_at(Span::days(7)).0, 1);
        assert_eq!(due_at(Span::days(300)), (0, MAX_SLEEP), "the clock is a year behind");
        assert_eq!(due_at(Span::days(6)).0, 1, "the clock is right again");
        assert_eq!(due_at(Span::hours(20)).0, 1);
    }

    #[test]
    fn a_short_lived_version_gets_no_warning_before_it_must_be_replaced() {
        let day = &mut Warnings::default();
        let mut due_at = |left| take_due_of(day, "day", Expiry::between(END - Span::DAY, END), left);
        assert_eq!(due_at(Span::DAY), (0, MAX_SLEEP));
        assert_eq!(due_at(Span::minutes(300)), (0, Duration::from_secs(720)));
        assert_eq!(due_at(Span::minutes(288)), (1, MAX_SLEEP));
        assert_eq!(due_at(Span::minutes(3)), (0, Duration::from_secs(180)));
        assert_eq!(due_at(Span::ZERO), (1, MAX_SLEEP));
        let month = &mut Warnings::default();
        let mut due_at = |left| take_due_of(month, "month", Expiry::between(END - Span::days(30), END), left).0;
        assert_eq!([30, 7, 6, 2, 1, 0].map(|days| due_at(Span::days(days))), [0, 0, 1, 0, 1, 1]);
    }

    #[test]
    fn another_version_gets_warnings_of_its_own() {
        let mut warnings = Warnings::default();
        assert_eq!(take_due(&mut warnings, "v1", Span::days(5)).0, 1);
        assert_eq!(take_due(&mut warnings, "v1", Span::days(5)).0, 0);
        assert_eq!(take_due(&mut warnings, "v2", Span::days(5)).0, 1);
    }
}
