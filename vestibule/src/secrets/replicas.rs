//! One secrets manager in several Regions: the first is asked, and the next where that one does not answer.

use super::{Fetched, SecretId, Source, SourceError, Stage, VersionId, Versions};
use crate::backoff::Backoff;
use futures_util::future::BoxFuture;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::Instant;

/// The longest that one attempt may take. The SDK sets no such limit.
const ATTEMPT: Duration = Duration::from_secs(5);

const NO_VALUE: &str = "no such secret, or it has no value yet";

/// How long a Region that did not answer is asked after the others.
const AWAY: Duration = Duration::from_secs(30);

/// A secrets manager and its replicas, in the order in which they are asked.
pub(crate) struct Replicas(Vec<Replica>);

struct Replica {
    region: String,
    /// The one that the others are replicas of.
    first: bool,
    source: Arc<dyn Source>,
    /// When it last did not answer.
    silent: Mutex<Option<Instant>>,
}

impl Replicas {
    pub(crate) fn new(sources: impl IntoIterator<Item = (String, Arc<dyn Source>)>) -> Self {
        let replica =
            |(place, (region, source))| Replica { region, first: place == 0, source, silent: Mutex::default() };
        Self(sources.into_iter().enumerate().map(replica).collect())
    }

    /// The version of a secret at one stage, where it must be one. An older one than `since` is news only from the first
    /// Region: a replica lags behind.
    pub(crate) async fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
        since: Option<OffsetDateTime>,
        deadline: Instant,
    ) -> Result<Fetched, SourceError> {
        let attempt = |replica: &'a Replica| {
            Box::pin(async move {
                match replica.source.fetch(id, stage, held).await? {
                    Fetched::Absent if stage == Stage::Current => Err(SourceError::Missing(NO_VALUE.into())),
                    Fetched::New(value) if !replica.first && value.older_than(since) => {
                        Err(SourceError::Unavailable("this Region has an older version than the one held".into()))
                    }
                    fetched => Ok(fetched),
                }
            }) as BoxFuture<'a, _>
        };
        self.ask(id, deadline, attempt).await
    }

    /// Which version of a secret is at which stage; the current one at least.
    pub(crate) async fn versions<'a>(&'a self, id: &'a SecretId, deadline: Instant) -> Result<Versions, SourceError> {
        let attempt = |replica: &'a Replica| {
            Box::pin(async move {
                let versions = replica.source.versions(id).await?;
                let known = versions.contains_key(&Stage::Current);
                known.then_some(versions).ok_or_else(|| SourceError::Missing(NO_VALUE.into()))
            }) as BoxFuture<'a, _>
        };
        self.ask(id, deadline, attempt).await
    }

    /// Tries while that may help and the deadline is ahead: each replica once, then all again after a pause. What the
    /// first Region says no to, the others are not asked. Their no does not count: a secret may not be replicated.
    async fn ask<'a, T>(
        &'a self,
        id: &SecretId,
        deadline: Instant,
        attempt: impl Fn(&'a Replica) -> BoxFuture<'a, Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let mut backoff = Backoff::until(deadline);
        loop {
            let order = self.order();
            let mut failed = None;
            for (asked, replica) in order.iter().enumerate() {
                let others = order.len() - asked - 1;
                // A Region that swallows requests must leave time for the next.
                let share = deadline.saturating_duration_since(Instant::now()) / (others as u32 + 1);
                let error = match tokio::time::timeout(share.min(ATTEMPT), attempt(replica)).await {
                    Ok(Ok(answer)) => {
                        replica.answered();
                        return Ok(answer);
                    }
                    Ok(Err(error)) if replica.first && !error.transient() => return Err(error),
                    Ok(Err(error)) => error,
                    Err(_) => SourceError::Unanswered("no answer in time".into()),
                };
                tracing::debug!(secret.id = %id, region = replica.region, %error, "an attempt failed");
                if error.transient() {
                    replica.did_not_answer(&error, others);
                }
                failed = failed.filter(SourceError::transient).or(Some(error));
            }
            if !backoff.wait().await {
                return Err(failed.unwrap_or_else(|| SourceError::Unanswered("there is nobody to ask".into())));
            }
        }
    }

    /// As configured, but those that did not answer lately come last.
    fn order(&self) -> Vec<&Replica> {
        let mut order: Vec<_> = self.0.iter().collect();
        order.sort_by_key(|replica| replica.is_away());
        order
    }
}

impl Replica {
    fn is_away(&self) -> bool {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < AWAY)
    }

    fn answered(&self) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn did_not_answer(&self, error: &SourceError, others: usize) {
        let before = self.silent.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
        if before.is_none() && others > 0 {
            tracing::warn!(
                cloud.region = self.region,
                %error,
                "the secrets manager of a Region does not answer; the next one is asked"
            );
        }
    }
}
