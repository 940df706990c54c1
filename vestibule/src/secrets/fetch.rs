//! Fetching all credentials at once, each retried until the deadline.

use super::{
    Fetched, Keyring, SecretId, Source, SourceError, Stage, Value, Values, VersionId, Versions, Wanted, subject,
};
use crate::{
    backoff::Backoff,
    exit::{Exit, Fault},
};
use futures_util::{
    StreamExt,
    future::{BoxFuture, try_join_all},
    stream,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How many secrets are asked for at a time.
const CONCURRENCY: usize = 16;

/// The longest that one attempt may take. The SDK sets no such limit.
const ATTEMPT: Duration = Duration::from_secs(5);

/// What came of one credential.
pub(crate) enum Outcome {
    /// Every stage is as held.
    Same,
    New(Values),
    Failed(Fault),
}

/// Fetches what is wanted, concurrently.
pub(crate) async fn fetch(
    source: &dyn Source,
    wanted: &[(Wanted, SecretId)],
    held: &Keyring,
    deadline: Instant,
) -> Vec<(Wanted, SecretId, Outcome)> {
    let fetches: Vec<BoxFuture<'_, _>> = wanted
        .iter()
        .map(|(wanted, id)| {
            let one = One { source, id, deadline };
            Box::pin(one.fetch(wanted, held.versions(wanted.name, id))) as _
        })
        .collect();
    stream::iter(fetches).buffered(CONCURRENCY).collect().await
}

struct One<'a> {
    source: &'a dyn Source,
    id: &'a SecretId,
    deadline: Instant,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the manager has no such secret, or it has no value yet")]
    Missing,
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl One<'_> {
    async fn fetch(self, wanted: &Wanted, held: Option<&Versions>) -> (Wanted, SecretId, Outcome) {
        let outcome = match self.stages(wanted, held).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(fault(wanted, self.id, &error)),
        };
        (*wanted, self.id.clone(), outcome)
    }

    async fn stages(&self, wanted: &Wanted, held: Option<&Versions>) -> Result<Outcome, Error> {
        let stages = wanted.stages.iter().map(|&stage| {
            let held = held.and_then(|held| held.get(&stage));
            async move { Ok::<_, SourceError>((stage, self.stage(stage, held).await?)) }
        });
        let fetched: BTreeMap<_, _> = try_join_all(stages).await?.into_iter().collect();
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
        let current: Value = values.remove(&Stage::Current).ok_or(Error::Missing)?;
        Ok(Outcome::New(Values::new(current, values)))
    }

    /// One stage. What cannot be used at another stage than the current one is as good as absent: a rotation that
    /// failed leaves a pending version without a value.
    async fn stage(&self, stage: Stage, held: Option<&VersionId>) -> Result<Fetched, SourceError> {
        match self.attempts(stage, held).await {
            Err(SourceError::Malformed(_) | SourceError::Missing(_)) if stage != Stage::Current => Ok(Fetched::Absent),
            done => done,
        }
    }

    /// Tries while that may help and the deadline is ahead.
    async fn attempts(&self, stage: Stage, held: Option<&VersionId>) -> Result<Fetched, SourceError> {
        let mut backoff = Backoff::until(self.deadline);
        loop {
            let attempt = self.source.fetch(self.id, stage, held);
            let until = self.deadline.min(Instant::now() + ATTEMPT);
            let error = match tokio::time::timeout_at(until, attempt).await {
                Ok(Ok(fetched)) => return Ok(fetched),
                Ok(Err(error)) if !error.transient() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => SourceError::Unanswered("no answer in time".into()),
            };
            tracing::debug!(secret.id = %self.id, error = %error, "an attempt to fetch a secret failed");
            if !backoff.wait().await {
                return Err(error);
            }
        }
    }
}

fn fault(wanted: &Wanted, id: &SecretId, error: &Error) -> Fault {
    let (exit, remedy) = match error {
        Error::Missing | Error::Source(SourceError::Missing(_)) => (
            Exit::Missing,
            format!(
                "create the secret (restore it, if its deletion is scheduled), or correct its id: [secrets.ids] {} = \"…\"",
                wanted.name
            ),
        ),
        Error::Source(SourceError::Denied(_)) => (
            Exit::Denied,
            "allow secretsmanager:GetSecretValue on this id, and kms:Decrypt on its key if that is your own; check \
             the id too: a wrong one may be answered like this"
                .into(),
        ),
        Error::Source(SourceError::NoIdentity(_)) => {
            (Exit::Denied, "give the process an identity: a role of its pod, task or instance".into())
        }
        Error::Source(SourceError::Malformed(_)) => {
            (Exit::Malformed, "put a text value at the manager, as a new version".into())
        }
        Error::Source(SourceError::Unavailable(_)) => (
            Exit::Unavailable,
            "check the way to the manager (Region, endpoint, network) and its health; then start again".into(),
        ),
        Error::Source(SourceError::Unanswered(_)) => (
            Exit::Deadline,
            "check the way to the manager (route, firewall, VPC endpoint); raise secrets.deadline if it is only slow"
                .into(),
        ),
    };
    Fault::new(exit, subject(wanted.name, id), error.to_string(), remedy)
}
