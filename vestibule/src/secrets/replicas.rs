//! One secrets manager in several Regions: the first is asked, and the next where that one does not answer.

use super::{Fetched, SecretId, Source, SourceError, Stage, VersionId, Versions};
use crate::backoff::Backoff;
use futures_util::future::BoxFuture;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The longest that one attempt may take. The SDK sets no such limit.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long a Region that did not answer is asked after the others.
const AWAY: Duration = Duration::from_secs(30);

/// A secrets manager and its replicas, in the order in which they are asked.
pub(crate) struct Replicas(Vec<Replica>);

struct Replica {
    region: String,
    source: Arc<dyn Source>,
    /// When it last did not answer.
    silent: Mutex<Option<Instant>>,
}

impl Replicas {
    pub(crate) fn new(sources: impl IntoIterator<Item = (String, Arc<dyn Source>)>) -> Self {
        let replica = |(region, source)| Replica { region, source, silent: Mutex::default() };
        Self(sources.into_iter().map(replica).collect())
    }

    /// The version of a secret at one stage.
    pub(crate) async fn fetch(
        &self,
        id: &SecretId,
        stage: Stage,
        held: Option<&VersionId>,
        deadline: Instant,
    ) -> Result<Fetched, SourceError> {
        self.ask(id, deadline, |source| source.fetch(id, stage, held)).await
    }

    /// Which version of a secret is at which stage.
    pub(crate) async fn versions(&self, id: &SecretId, deadline: Instant) -> Result<Versions, SourceError> {
        self.ask(id, deadline, |source| source.versions(id)).await
    }

    /// Tries while that may help and the deadline is ahead: each replica once, then all again after a pause. What one
    /// says no to, whichever it is, the others are not asked.
    async fn ask<'a, T>(
        &'a self,
        id: &SecretId,
        deadline: Instant,
        attempt: impl Fn(&'a dyn Source) -> BoxFuture<'a, Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let mut backoff = Backoff::until(deadline);
        loop {
            let mut failed = SourceError::Unanswered("there is no secrets manager to ask".into());
            let order = self.order();
            for (asked, replica) in order.iter().enumerate() {
                let others = order.len() - asked - 1;
                // A Region that swallows requests must leave time for the next.
                let share = deadline.saturating_duration_since(Instant::now()) / (others as u32 + 1);
                failed = match tokio::time::timeout(share.min(ATTEMPT), attempt(&*replica.source)).await {
                    Ok(Err(error)) if error.transient() => error,
                    Err(_) => SourceError::Unanswered("no answer in time".into()),
                    Ok(answer) => {
                        replica.answered();
                        return answer;
                    }
                };
                tracing::debug!(secret.id = %id, region = replica.region, error = %failed, "an attempt failed");
                replica.did_not_answer(&failed, others);
            }
            if !backoff.wait().await {
                return Err(failed);
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
