//! The clocks of replicas. The times in a status are by the clock of its replica as that is set when it answers, and `now` is
//! one of them. That clock may be wrong, so the audit takes the times to the clock of this machine before it compares any two.

use super::{comparison::Audit, replica::ReplicaStatus};
use time::{Duration, OffsetDateTime};

/// The largest difference that says nothing of the clocks: an answer takes 3 s at most, and NTP leaves a small one.
const TOLERANCE: Duration = Duration::seconds(5);

impl ReplicaStatus {
    /// Takes all times from the replica's clock to ours, which says `our_now`. A replica of an older release does not say its
    /// time, so its times stay.
    pub(in crate::cli) fn by_our_clock(self, our_now: OffsetDateTime) -> Self {
        let Some(its_now) = self.now else { return self };
        let ahead = its_now - our_now;
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
    use crate::{cli::audit::comparison::Verdict, moment::Moment};
    use time::format_description::well_known::Rfc3339;

    /// Returns the status of a replica with the credential of a lease, which was loaded and ends at these times of its clock.
    fn with_lease(loaded: impl serde::Serialize, end: impl serde::Serialize) -> ReplicaStatus {
        ReplicaStatus::with_credentials(serde_json::json!([{
            "name": "database", "id": "database/creds/app", "version": uuid::Uuid::new_v4(), "stage": "current",
            "loaded": loaded, "lease": { "end": end },
        }]))
    }

    /// Returns the status of a replica whose clock is this much ahead of ours. It has loaded its user two hours ago, and the
    /// lease has ended.
    fn replica(ahead: Duration, now: OffsetDateTime) -> ReplicaStatus {
        let text = |time: OffsetDateTime| (time + ahead).format(&Rfc3339).expect("a time");
        let status = with_lease(text(now - Duration::hours(2)), text(now - Duration::MINUTE));
        ReplicaStatus { now: Some(now + ahead), ..status }.by_our_clock(now)
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
    fn a_clock_that_was_set_since_the_load_makes_no_login_older_or_younger() {
        let now = OffsetDateTime::now_utc();
        let end = Moment::now().plus(std::time::Duration::from_secs(60 * 60));
        let loaded = [0, 3, -3].map(|hours| Moment::now().before_a_jump(Duration::hours(hours)));
        let statuses = loaded.map(|loaded| {
            let status = ReplicaStatus { now: Some(OffsetDateTime::now_utc()), ..with_lease(loaded, end) };
            status.by_our_clock(now)
        });
        let mut audit = Audit::of(statuses.into_iter().collect());
        for (since, verdict) in [(-Duration::HOUR, Verdict::Current), (Duration::HOUR, Verdict::LoadedBefore)] {
            audit.since = Some(now + since);
            for (_, status) in audit.reachable() {
                assert_eq!(audit.verdict(&status.credentials[0]), verdict);
            }
        }
        assert!(audit.replicas_with_other_clocks().is_empty(), "they agree by now");
    }

    #[test]
    fn the_time_that_an_answer_takes_is_no_difference_and_a_replica_need_not_say_its_time() {
        let now = OffsetDateTime::now_utc();
        for (its_now, ahead) in [
            (None, Duration::ZERO),
            (Some(now - Duration::seconds(4)), Duration::ZERO),
            (Some(now - Duration::HOUR), -Duration::HOUR),
        ] {
            let status = ReplicaStatus { now: its_now, ..ReplicaStatus::with_credentials(serde_json::json!([])) };
            assert_eq!(status.by_our_clock(now).clock_ahead, ahead);
        }
        let latest = "9999-12-31T23:59:59Z";
        let far = ReplicaStatus { now: Some(OffsetDateTime::UNIX_EPOCH), ..with_lease(latest, latest) };
        assert!(far.by_our_clock(now).credentials[0].loaded.year() >= 9999, "no time is too far");
    }
}
