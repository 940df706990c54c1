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

/// The same at a Region that did not answer lately, and is asked after the others.
const ATTEMPT_AWAY: Duration = Duration::from_secs(1);

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

    /// The version of a secret at one stage. Of what the others say that may only be because they lag behind the first
    /// Region, nothing counts unless that one is away, and an older version than `since` not even then.
    pub(crate) async fn fetch<'a>(&'a self, question: Question<'a>) -> Result<Fetched, SourceError> {
        let Question { id, stage, held, known, since, deadline } = question;
        let attempt = |replica: &'a Replica| {
            Box::pin(async move {
                Ok(match replica.source.fetch(id, stage, held).await? {
                    Fetched::Absent if stage == Stage::Current => return Err(SourceError::Missing(NO_VALUE.into())),
                    Fetched::Absent if !replica.first && held.is_some() => Answer::Sure(Fetched::Same),
                    Fetched::Absent if !replica.first && !known => Answer::Unsure(Fetched::Absent),
                    Fetched::New(value) if !replica.first && value.older_than(since) => {
                        return Err(SourceError::Missing("this Region has an older version than the one held".into()));
                    }
                    fetched => Answer::Sure(fetched),
                })
            }) as BoxFuture<'a, _>
        };
        self.ask(id, deadline, || self.order(), attempt).await
    }

    /// Which version of a secret is at which stage; the current one at least. Only the first Region knows for sure.
    pub(crate) async fn versions<'a>(&'a self, id: &'a SecretId, deadline: Instant) -> Result<Versions, SourceError> {
        let attempt = |replica: &'a Replica| {
            Box::pin(async move {
                let versions = replica.source.versions(id).await?;
                let known = versions.contains_key(&Stage::Current);
                known.then_some(Answer::Sure(versions)).ok_or_else(|| SourceError::Missing(NO_VALUE.into()))
            }) as BoxFuture<'a, _>
        };
        self.ask(id, deadline, || self.0.iter().take(1).collect(), attempt).await
    }

    /// Tries while that may help and the deadline is ahead: each replica once, then all again after a pause. What the
    /// first Region says no to, the others are not asked. Their no does not count: a secret may not be replicated.
    async fn ask<'a, T>(
        &'a self,
        id: &SecretId,
        deadline: Instant,
        order: impl Fn() -> Vec<&'a Replica>,
        attempt: impl Fn(&'a Replica) -> BoxFuture<'a, Result<Answer<T>, SourceError>>,
    ) -> Result<T, SourceError> {
        let mut backoff = Backoff::until(deadline);
        loop {
            let order = order();
            let (mut unsure, mut failed) = (None, None);
            for (asked, replica) in order.iter().enumerate() {
                let others = order.len() - asked - 1;
                // A Region that swallows requests must leave time for the next.
                let share = deadline.saturating_duration_since(Instant::now()) / (others as u32 + 1);
                if share.is_zero() {
                    break;
                }
                let longest = if asked > 0 && replica.is_away() { ATTEMPT_AWAY } else { ATTEMPT };
                let error = match tokio::time::timeout(share.min(longest), attempt(replica)).await {
                    Ok(answer) if !answer.as_ref().is_err_and(SourceError::transient) => {
                        replica.answered();
                        match answer {
                            Ok(Answer::Sure(answer)) => return Ok(answer),
                            Ok(Answer::Unsure(answer)) => {
                                unsure = Some(answer);
                                continue;
                            }
                            Err(no) if replica.first => return Err(no),
                            Err(no) => no,
                        }
                    }
                    Ok(answer) => replica.did_not_answer(answer.err(), others),
                    Err(_) => replica.did_not_answer(None, others),
                };
                tracing::debug!(secret.id = %id, region = replica.region, %error, "an attempt failed");
                failed = failed.filter(SourceError::transient).or(Some(error));
            }
            if let Some(answer) = unsure {
                return Ok(answer);
            }
            if !backoff.wait().await {
                return Err(failed.unwrap_or_else(|| SourceError::Unanswered("there was no time to ask".into())));
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

    fn did_not_answer(&self, error: Option<SourceError>, others: usize) -> SourceError {
        let error = error.unwrap_or_else(|| SourceError::Unanswered("no answer in time".into()));
        let before = self.silent.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
        if before.is_none() && others > 0 {
            tracing::warn!(
                cloud.region = self.region,
                %error,
                "the secrets manager of a Region does not answer; the next one is asked"
            );
        }
        error
    }
}

/// Which version is asked for.
pub(crate) struct Question<'a> {
    pub(crate) id: &'a SecretId,
    pub(crate) stage: Stage,
    /// The version held at this stage.
    pub(crate) held: Option<&'a VersionId>,
    /// Whether the secret is held, at whichever stage.
    pub(crate) known: bool,
    /// When the manager got the version in use.
    pub(crate) since: Option<OffsetDateTime>,
    pub(crate) deadline: Instant,
}

/// What a replica answered.
enum Answer<T> {
    Sure(T),
    /// The first Region may know better.
    Unsure(T),
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    /// Takes its time to say that it cannot.
    struct Overloaded;

    impl Source for Overloaded {
        fn fetch<'a>(
            &'a self,
            _: &'a SecretId,
            _: Stage,
            _: Option<&'a VersionId>,
        ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(SourceError::Unavailable("overloaded".into()))
            })
        }

        fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
            Box::pin(async { Ok(Versions::new()) })
        }
    }

    #[tokio::test]
    async fn what_answers_until_the_deadline_is_never_said_to_be_silent() {
        let replicas = Replicas::new([(String::new(), Arc::new(Overloaded) as Arc<dyn Source>)]);
        let id = SecretId::parse("test/key").unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        let question = || Question { id: &id, stage: Stage::Current, held: None, known: false, since: None, deadline };
        for fetched in join_all((0..64).map(|_| replicas.fetch(question()))).await {
            assert_eq!(fetched.err(), Some(SourceError::Unavailable("overloaded".into())));
        }
    }
}
