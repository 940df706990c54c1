//! Fetching all credentials at once, each retried until the deadline.

use super::{
    Fetched, Held, Keyring, Name, Replicas, SecretId, SourceError, Stage, Value, Values, VersionId, Versions, Wanted,
    replicas::Question, subject,
};
use crate::exit::{Exit, Fault};
use futures_util::{
    StreamExt,
    future::{BoxFuture, try_join_all},
    stream,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::Instant;

/// How many secrets are asked for at a time.
const CONCURRENCY: usize = 16;

/// Who is asked, and what of the answers may not be used: `secrets.revoked`.
#[derive(Clone, Copy)]
pub(crate) struct Manager<'a> {
    pub(crate) source: &'a Replicas,
    pub(crate) revoked: &'a BTreeSet<VersionId>,
}

impl Manager<'_> {
    fn revokes(&self, value: &Value) -> bool {
        self.revoked.contains(&value.version)
    }
}

/// What came of one credential.
pub(crate) enum Outcome {
    /// Every stage is as held.
    Same,
    New(Values),
    Failed(Fault),
}

/// Where the manager has a version that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// At this stage: it may be used.
    At(Stage),
    /// At none from which it may be used; another version took its place.
    Unlabelled,
}

/// How long after the first the second read of an older version comes.
const SECOND_READ: Duration = Duration::from_secs(1);

/// Fetches what is wanted, concurrently. What is doubted is read anew, also if it is the version held; all else that is
/// held must be there by `others` if anything is doubted.
pub(crate) async fn fetch(
    manager: Manager<'_>,
    wanted: &[(Wanted, SecretId)],
    held: &Keyring,
    doubted: &BTreeSet<Name>,
    others: Instant,
    deadline: Instant,
) -> Vec<(Wanted, SecretId, Outcome)> {
    let fetches: Vec<BoxFuture<'_, _>> = wanted
        .iter()
        .map(|(wanted, id)| {
            let held = held.get(wanted.name, id);
            let anew = doubted.contains(wanted.name);
            let hurry = !doubted.is_empty() && !anew && held.is_some();
            let deadline = if hurry { others.min(deadline) } else { deadline };
            let (known, since) = (held.is_some() && !anew, held.and_then(|held| held.created));
            let one = One { manager, id, known, since, deadline };
            Box::pin(one.fetch(wanted, held, anew)) as _
        })
        .collect();
    stream::iter(fetches).buffered(CONCURRENCY).collect().await
}

/// The version of a secret that a rotation has made and not finished, where there is one that can be read.
pub(crate) async fn pending(manager: Manager<'_>, id: &SecretId, deadline: Instant) -> Option<Value> {
    match (One { manager, id, known: false, since: None, deadline }).stage(Stage::Pending, None).await {
        Ok(Fetched::New(value)) => Some(value),
        _ => None,
    }
}

impl Outcome {
    /// Where the version in use is now. `None`: the manager did not say.
    pub(crate) fn seen(&self, held: &Held) -> Option<Seen> {
        match self {
            Self::Same => Some(Seen::At(held.stage)),
            Self::New(values) => Some(
                [Stage::Current, Stage::Pending]
                    .into_iter()
                    .find(|stage| values.at(*stage).is_some_and(|value| value.version == *held.in_use()))
                    .map_or(Seen::Unlabelled, Seen::At),
            ),
            Self::Failed(_) => None,
        }
    }
}

struct One<'a> {
    manager: Manager<'a>,
    id: &'a SecretId,
    /// Whether what is held may stay.
    known: bool,
    /// When the manager got the version in use.
    since: Option<OffsetDateTime>,
    deadline: Instant,
}

impl One<'_> {
    async fn fetch(self, wanted: &Wanted, held: Option<&Held>, anew: bool) -> (Wanted, SecretId, Outcome) {
        let outcome = match self.stages(wanted, held, anew).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(fault(wanted, self.id, &error)),
        };
        (*wanted, self.id.clone(), outcome)
    }

    async fn stages(&self, wanted: &Wanted, before: Option<&Held>, anew: bool) -> Result<Outcome, Unusable> {
        let asked: BTreeSet<_> = wanted.stages.iter().copied().chain(before.map(|held| held.stage)).collect();
        let held: Option<&Versions> = before.filter(|_| !anew).map(|held| &held.fetched);
        let stages = asked.into_iter().map(|stage| {
            let held = held.and_then(|held| held.get(&stage));
            async move { Ok::<_, Unusable>((stage, self.stage(stage, held).await?)) }
        });
        let mut fetched: BTreeMap<_, _> = try_join_all(stages).await?.into_iter().collect();
        // AWS promises no read after a write: an older version is no rollback, and a revoked one not in use, until it is
        // read twice.
        let doubtful = |value: &Value| value.older_than(self.since) || self.manager.revokes(value);
        if matches!(&fetched[&Stage::Current], Fetched::New(value) if doubtful(value)) {
            if Instant::now() + SECOND_READ >= self.deadline {
                let problem = "no second time, and the first answer is an older version, or a revoked one";
                return Err(SourceError::Unanswered(problem.into()).into());
            }
            tokio::time::sleep(SECOND_READ).await;
            let held = held.and_then(|held| held.get(&Stage::Current));
            fetched.insert(Stage::Current, self.stage(Stage::Current, held).await?);
        }
        let as_held = |(stage, fetched): (&Stage, &Fetched)| match fetched {
            Fetched::Same => true,
            Fetched::New(_) => false,
            Fetched::Absent => *stage != Stage::Current && held.is_none_or(|held| !held.contains_key(stage)),
        };
        if held.is_some() && fetched.iter().all(as_held) {
            return Ok(Outcome::Same);
        }
        let mut values = BTreeMap::new();
        for (stage, fetched) in fetched {
            // One stage moved, so the credential is read anew, from all of them.
            let fetched = match fetched {
                Fetched::Same => self.stage(stage, None).await?,
                fetched => fetched,
            };
            if let Fetched::New(value) = fetched {
                values.insert(stage, value);
            }
        }
        match values.remove(&Stage::Current) {
            Some(current) if self.manager.revokes(&current) => Err(Unusable::Revoked(current.version)),
            Some(current) => {
                let took_over = before.and_then(|held| match *held.in_use() == current.version {
                    true => held.took_over,
                    false => Some(OffsetDateTime::now_utc()),
                });
                Ok(Outcome::New(Values::new(current, values, took_over)))
            }
            None => Err(SourceError::Unavailable("it kept to itself which version is current".into()).into()),
        }
    }

    /// One stage. What cannot be used at another stage than the current one is as good as absent: a rotation that
    /// failed leaves a pending version without a value, and a revoked one is used at none.
    async fn stage(&self, stage: Stage, held: Option<&VersionId>) -> Result<Fetched, Unusable> {
        let since = self.since.filter(|_| stage == Stage::Current);
        let Self { manager, id, known, deadline, .. } = *self;
        match manager.source.fetch(Question { id, stage, held, known, since, deadline }).await {
            Ok(Fetched::New(value)) if stage != Stage::Current && manager.revokes(&value) => Ok(Fetched::Absent),
            Err(SourceError::Malformed(_) | SourceError::Missing(_)) if stage != Stage::Current => Ok(Fetched::Absent),
            done => Ok(done?),
        }
    }
}

/// Why a credential cannot be had.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the version that is current, {0}, is revoked: secrets.revoked names it")]
    Revoked(VersionId),
}

fn fault(wanted: &Wanted, id: &SecretId, unusable: &Unusable) -> Fault {
    let error = match unusable {
        Unusable::Source(error) => error,
        Unusable::Revoked(_) => {
            let remedy =
                "rotate first: put a new version at the manager and reload; or take the version out of the list";
            return Fault::new(Exit::Malformed, subject(wanted.name, id), unusable.to_string(), remedy);
        }
    };
    let (exit, remedy) = match error {
        SourceError::Missing(_) => (
            Exit::Missing,
            format!(
                "create the secret (restore it, if its deletion is scheduled), or correct its id: [secrets.ids] {} = \"…\"",
                wanted.name
            ),
        ),
        SourceError::Denied(_) => (
            Exit::Denied,
            "allow secretsmanager:GetSecretValue on this id, and kms:Decrypt on its key if that is your own; check \
             the id too: a wrong one may be answered like this"
                .into(),
        ),
        SourceError::NoIdentity(_) => {
            (Exit::Denied, "give the process an identity: a role of its pod, task or instance".into())
        }
        SourceError::Malformed(_) => (Exit::Malformed, "put a text value at the manager, as a new version".into()),
        SourceError::Unavailable(_) => (
            Exit::Unavailable,
            "check the way to the manager (Region, endpoint, network) and its health; then start again".into(),
        ),
        SourceError::Unanswered(_) => (
            Exit::Deadline,
            "check the way to the manager (route, firewall, VPC endpoint); raise secrets.deadline if it is only slow"
                .into(),
        ),
    };
    Fault::new(exit, subject(wanted.name, id), error.to_string(), remedy)
}
