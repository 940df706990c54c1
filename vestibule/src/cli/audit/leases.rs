//! Credentials with a lease. The manager makes one for each process, so it has no version to compare with.

use super::{
    comparison::{Audit, Verdict},
    replica::{ReplicaCredential, ReplicaLease, ReplicaStatus},
};
use std::collections::BTreeMap;
use time::OffsetDateTime;

impl Audit {
    /// Returns the verdict on a credential with this lease.
    pub(super) fn verdict_on_lease(&self, held: &ReplicaCredential, lease: &ReplicaLease) -> Verdict {
        if lease.end <= OffsetDateTime::now_utc() {
            Verdict::Ended
        } else if self.since.is_some_and(|since| held.loaded < since) {
            Verdict::LoadedBefore
        } else {
            Verdict::Current
        }
    }

    /// Returns the versions with a lease that several replicas hold, with these replicas. Two addresses of one replica are
    /// another finding.
    pub(super) fn shared_users(&self) -> Vec<String> {
        let mut holders: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (address, status) in self.reachable() {
            for held in status.leased() {
                holders.entry((&held.id, &held.version)).or_default().entry(status.instance).or_insert(address);
            }
        }
        holders.retain(|_, replicas| replicas.len() > 1);
        let shared = holders.into_iter().map(|((_, version), replicas)| {
            let mut addresses: Vec<_> = replicas.values().map(ToString::to_string).collect();
            addresses.sort();
            format!("{version} at {}", addresses.join(" and "))
        });
        shared.collect()
    }

    /// Returns `true` if `--since` is about nothing: every replica has answered, and none has a credential with a lease.
    pub(super) fn has_no_lease(&self) -> bool {
        let has_none = |status: &ReplicaStatus| status.leased().next().is_none();
        self.since.is_some() && self.replicas.iter().all(|(_, status)| status.as_ref().is_ok_and(has_none))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::audit::versions_at_manager,
        secrets::{
            id::{SecretId, VersionId},
            version::Stage,
        },
    };
    use std::time::Duration;
    use time::format_description::well_known::Rfc3339;
    use tokio::time::Instant;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn now() -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    /// Returns the status of another process that holds this user, loaded and with a lease that ends at these times. With
    /// no end, it has no lease.
    fn replica(user: &str, loaded: OffsetDateTime, end: Option<OffsetDateTime>) -> ReplicaStatus {
        let text = |time: OffsetDateTime| time.format(&Rfc3339).expect("a time");
        let mut credential = serde_json::json!({
            "name": "database", "id": "database/creds/app", "version": user, "stage": "current", "loaded": text(loaded),
        });
        if let Some(end) = end {
            credential["lease"] = serde_json::json!({ "end": text(end), "due": text(loaded) });
        }
        ReplicaStatus::with_credentials(serde_json::json!([credential]))
    }

    fn verdicts(audit: &Audit) -> Vec<Verdict> {
        audit.reachable().map(|(_, status)| audit.verdict(&status.credentials[0])).collect()
    }

    fn titles(audit: &Audit) -> Vec<String> {
        audit.faults().into_iter().map(|fault| fault.subject).collect()
    }

    #[test]
    fn a_lease_is_current_until_its_end_also_when_a_successor_is_due() {
        let audit = Audit::of(vec![replica("a", now(), Some(now() + HOUR)), replica("b", now() - HOUR, Some(now()))]);
        assert_eq!(verdicts(&audit), [Verdict::Current, Verdict::Ended]);
        assert_eq!(titles(&audit), ["ended: http://10.0.0.1:9090 (database)"]);
        assert!(audit.faults()[0].remedy.contains("last_reload"));
        let table = audit.table().to_string();
        let rows: Vec<Vec<_>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!((&rows[1][2..5], rows[1][7]), (&["a", "current", "own"][..], "current"), "{table}");
        assert_eq!((&rows[2][2..5], rows[2][7]), (&["b", "current", "own"][..], "ended"), "{table}");
        assert!(audit.summary().starts_with("1 of 2 replicas hold"), "{}", audit.summary());
    }

    #[test]
    fn since_names_the_replicas_whose_lease_is_older() {
        let end = Some(now() + HOUR);
        let mut audit = Audit::of(vec![replica("a", now(), end), replica("b", now() - HOUR, end)]);
        assert!(titles(&audit).is_empty());
        audit.since = Some(now() - HOUR / 2);
        assert_eq!(verdicts(&audit), [Verdict::Current, Verdict::LoadedBefore]);
        assert_eq!(titles(&audit), ["loaded before --since: http://10.0.0.1:9090 (database)"]);
        assert!(audit.table().to_string().trim_end().ends_with("behind"), "{}", audit.table());
    }

    #[test]
    fn since_without_a_lease_is_a_finding_once_every_replica_has_answered() {
        let mut audit = Audit::of(vec![replica("a", now(), None)]);
        let at = audit.replicas[0].0.clone();
        let id = SecretId::parse("database/creds/app").unwrap();
        audit.manager.insert(id, Ok(BTreeMap::from([(Stage::Current, VersionId::new("a"))])));
        assert!(titles(&audit).is_empty());
        audit.since = Some(now() - HOUR);
        assert_eq!(titles(&audit), ["nothing to compare with --since: no credential has a lease"]);
        audit.replicas.push((at, Err("it does not answer".into())));
        assert_eq!(titles(&audit), ["unreachable: http://10.0.0.0:9090 (it does not answer)"]);
    }

    #[test]
    fn a_user_that_two_processes_have_is_a_finding_and_one_process_at_two_addresses_is_none() {
        let end = Some(now() + HOUR);
        let mut audit = Audit::of(vec![replica("a", now(), end), replica("b", now(), end), replica("a", now(), end)]);
        assert_eq!(titles(&audit), ["the same user: a at http://10.0.0.0:9090 and http://10.0.0.2:9090"]);
        let (_, Ok(first)) = &audit.replicas[0] else { unreachable!("it answers") };
        let instance = first.instance;
        let (_, Ok(last)) = &mut audit.replicas[2] else { unreachable!("it answers") };
        last.instance = instance;
        audit.expected = Some(2);
        assert!(titles(&audit).is_empty());
    }

    #[test]
    fn a_user_can_be_revoked_by_name() {
        let mut audit =
            Audit::of(vec![replica("a", now(), Some(now() + HOUR)), replica("b", now(), Some(now() + HOUR))]);
        audit.revoked.insert(VersionId::new("b"));
        assert_eq!(verdicts(&audit), [Verdict::Current, Verdict::Revoked]);
        assert_eq!(titles(&audit), ["revoked: http://10.0.0.1:9090 (database)"]);
    }

    #[tokio::test]
    async fn the_manager_is_not_asked_for_a_credential_with_a_lease() {
        for (end, asked) in [(Some(now() + HOUR), 0), (None, 1)] {
            let Audit { replicas, regions, .. } = Audit::of(vec![replica("a", now(), end)]);
            assert_eq!(versions_at_manager(&regions, &replicas, Instant::now() + HOUR).await.len(), asked);
        }
    }
}
