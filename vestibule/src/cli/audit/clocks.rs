//! The clocks of replicas. The times in a status are those of its replica, whose clock may be wrong. So the audit takes them
//! to the clock of this machine before it compares any two.

use super::{comparison::Audit, replica::ReplicaStatus};
use axum::http::{Response, header};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc2822};

/// The largest difference that says nothing of the clocks: `Date` has whole seconds, and an answer takes 3 s at most.
const TOLERANCE: Duration = Duration::seconds(5);

/// Returns the time of an answer by the clock of the replica. `None` if the answer does not say it.
pub(in crate::cli) fn date_of<B>(answer: &Response<B>) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(answer.headers().get(header::DATE)?.to_str().ok()?, &Rfc2822).ok()
}

impl ReplicaStatus {
    /// Takes all times from the replica's clock to ours. `date` is the time of the answer by the one, and `now` by the other.
    pub(in crate::cli) fn by_our_clock(self, date: Option<OffsetDateTime>, now: OffsetDateTime) -> Self {
        let Some(date) = date else { return self };
        let ahead = date - now;
        if ahead.abs() <= TOLERANCE {
            return self;
        }
        let mut status = Self { clock_ahead: ahead, ..self };
        let take = |time: &mut OffsetDateTime| *time = time.saturating_sub(ahead);
        for held in &mut status.credentials {
            take(&mut held.loaded);
            if let Some(lease) = &mut held.lease {
                take(&mut lease.end);
            }
        }
        if let Some(authentication) = &mut status.authentication {
            take(&mut authentication.verified);
        }
        status
    }
}

impl Audit {
    /// Returns the replicas whose clock differs from ours, if `--since` is compared with their times: one of the clocks is
    /// wrong, and nobody here knows which of them gave that time.
    pub(super) fn replicas_with_other_clocks(&self) -> Vec<String> {
        let mut replicas = Vec::new();
        for (address, status) in self.reachable() {
            let ahead = status.clock_ahead.whole_seconds();
            if self.since.is_some() && ahead != 0 && status.leased().next().is_some() {
                let direction = if ahead > 0 { "ahead" } else { "behind" };
                replicas.push(format!("{address} ({} s {direction})", ahead.unsigned_abs()));
            }
        }
        replicas
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::audit::comparison::Verdict;
    use time::format_description::well_known::Rfc3339;

    /// Returns the status of a replica whose clock is this much ahead of ours. It has loaded its user two hours ago, and the
    /// lease has ended.
    fn replica(ahead: Duration, now: OffsetDateTime) -> ReplicaStatus {
        let text = |time: OffsetDateTime| (time + ahead).format(&Rfc3339).expect("a time");
        let status = ReplicaStatus::with_credentials(serde_json::json!([{
            "name": "database", "id": "database/creds/app", "version": format!("user{ahead}"), "stage": "current",
            "loaded": text(now - Duration::hours(2)), "lease": { "end": text(now - Duration::MINUTE) },
        }]));
        status.by_our_clock(Some(now + ahead), now)
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_lease_last_and_no_login_younger() {
        let now = OffsetDateTime::now_utc();
        let mut audit =
            Audit::of([0, 3, 12, -12].map(|hours| replica(Duration::hours(hours), now)).into_iter().collect());
        for (_, status) in audit.reachable() {
            assert_eq!(audit.verdict(&status.credentials[0]), Verdict::Ended);
            assert_eq!(status.credentials[0].loaded, now - Duration::hours(2));
        }
        assert!(audit.replicas_with_other_clocks().is_empty(), "the clocks do not matter");
        audit.since = Some(now - Duration::HOUR);
        let expected = ["1:9090 (10800 s ahead)", "2:9090 (43200 s ahead)", "3:9090 (43200 s behind)"];
        assert_eq!(audit.replicas_with_other_clocks(), expected.map(|replica| format!("http://10.0.0.{replica}")));
        let faults = audit.faults();
        assert!(faults.iter().any(|fault| fault.subject.starts_with("different clocks: http://10.0.0.1:9090 ")));
    }

    #[test]
    fn the_date_of_an_answer_is_read_and_the_time_that_it_took_is_no_difference() {
        let answer = Response::builder().header("date", "Sun, 06 Nov 1994 08:49:37 GMT").body(()).expect("an answer");
        let date = date_of(&answer).expect("a date");
        assert_eq!(date.unix_timestamp(), 784_111_777);
        assert_eq!(date_of(&Response::new(())), None);
        for (late, ahead) in [(Duration::seconds(4), Duration::ZERO), (Duration::HOUR, -Duration::HOUR)] {
            let status = ReplicaStatus::with_credentials(serde_json::json!([])).by_our_clock(Some(date), date + late);
            assert_eq!(status.clock_ahead, ahead);
        }
        let far = ReplicaStatus::with_credentials(serde_json::json!([{
            "name": "key", "id": "svc/key", "version": "v", "stage": "current", "loaded": "9999-12-31T23:59:59Z",
        }]));
        let status = far.by_our_clock(Some(date), OffsetDateTime::now_utc());
        assert!(status.credentials[0].loaded.year() >= 9999, "no time is too far");
    }
}
