//! Credentials that end by themselves, as certificates do: the log says so in time.

use crate::{
    application::{Application, Live},
    secrets::{credential::Name, id::VersionId},
};
use std::{collections::BTreeMap, time::Duration};
use time::{Duration as Span, OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_util::sync::CancellationToken;

/// How long before its end a credential is spoken of.
const NOTICES: [Span; 4] = [Span::days(30), Span::days(7), Span::days(1), Span::ZERO];

/// The longest sleep: the clock on the wall may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// Speaks of each version in service that nears its end, once a notice, until `stopping`.
pub(crate) async fn watch<A: Application>(mut live: Live<A>, stopping: CancellationToken) {
    let mut noticed = Noticed::default();
    loop {
        let (held, now) = (live.generation(), OffsetDateTime::now_utc());
        let expires_at =
            held.credentials.iter().filter_map(|(name, held)| Some(((name, held.in_use().clone()), held.expires_at?)));
        let (due, pause) = noticed.look(expires_at.collect(), now);
        drop(held);
        for (version, expires_at) in due {
            speak(&version, expires_at, now);
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            more = live.changed() => if !more { return },
            () = tokio::time::sleep(pause) => (),
        }
    }
}

type Version = (Name, VersionId);

/// How many notices were given of each version that is held.
#[derive(Default)]
struct Noticed(BTreeMap<Version, usize>);

impl Noticed {
    /// Those of which a notice is due, and how long no other will be.
    fn look(
        &mut self,
        held: BTreeMap<Version, OffsetDateTime>,
        now: OffsetDateTime,
    ) -> (Vec<(Version, OffsetDateTime)>, Duration) {
        let before = std::mem::take(&mut self.0);
        let (mut speak, mut pause) = (Vec::new(), LOOK_AGAIN);
        for (version, expires_at) in held {
            let due = due(expires_at, now);
            if let Some(notice) = NOTICES.get(due) {
                pause = pause.min((expires_at - *notice - now).unsigned_abs());
            }
            if due > before.get(&version).copied().unwrap_or(0) {
                speak.push((version.clone(), expires_at));
            }
            self.0.insert(version, due);
        }
        (speak, pause)
    }
}

/// How many of the notices are due.
fn due(expires_at: OffsetDateTime, now: OffsetDateTime) -> usize {
    NOTICES.iter().filter(|notice| expires_at - now <= **notice).count()
}

fn speak((credential, version): &(Name, VersionId), expires_at: OffsetDateTime, now: OffsetDateTime) {
    let left = expires_at - now;
    let expires = expires_at.format(&Rfc3339).unwrap_or_default();
    if left.is_positive() {
        tracing::warn!(
            credential,
            credential.version = %version,
            credential.expires = expires,
            credential.days_left = left.whole_days(),
            "a credential is about to end: rotate it"
        );
    } else {
        tracing::error!(
            credential,
            credential.version = %version,
            credential.expires = expires,
            "a credential has ended, and is still in service: rotate it now"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn look(noticed: &mut Noticed, version: &str, left: Span) -> (usize, Duration) {
        let held = [(("server_tls", VersionId::new(version)), ENDS)].into();
        let (due, pause) = noticed.look(held, ENDS - left);
        (due.len(), pause)
    }

    #[test]
    fn each_notice_is_given_once_and_in_time() {
        let mut noticed = Noticed::default();
        let mut look = |left| look(&mut noticed, "v1", left);
        assert_eq!(look(Span::days(40)), (0, LOOK_AGAIN));
        assert_eq!(look(Span::days(30) + Span::minutes(10)), (0, Duration::from_secs(600)));
        assert_eq!(look(Span::days(30)).0, 1);
        assert_eq!(look(Span::days(29)).0, 0);
        assert_eq!(look(Span::days(7) + Span::seconds(1)), (0, Duration::from_secs(1)));
        assert_eq!(look(Span::days(7)).0, 1);
        assert_eq!(look(Span::hours(3)), (1, LOOK_AGAIN));
        assert_eq!(look(Span::minutes(3)), (0, Duration::from_secs(180)));
        assert_eq!(look(Span::seconds(-1)), (1, LOOK_AGAIN));
        assert_eq!(look(Span::days(-1)), (0, LOOK_AGAIN));
    }

    #[test]
    fn another_version_is_spoken_of_anew() {
        let mut noticed = Noticed::default();
        assert_eq!(look(&mut noticed, "v1", Span::days(5)).0, 1);
        assert_eq!(look(&mut noticed, "v1", Span::days(5)).0, 0);
        assert_eq!(look(&mut noticed, "v2", Span::days(5)).0, 1);
    }
}
