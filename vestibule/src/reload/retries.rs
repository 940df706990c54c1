//! Retries: reloads that follow one that failed, while they may help.

use crate::{backoff::Backoff, loader::RetryClass, status::reload_record::Trigger};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The time for which reloads follow one that met a rejected login. AWS documents about a minute between the change in the
/// database and the move of the label.
const ROTATION_WINDOW: Duration = Duration::from_secs(75);

/// The longest pause between reloads while the manager or the database does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The retries that are due, for the configuration in service and for one that could not be put in service yet.
pub(super) struct Retries<C> {
    in_service: Option<Retry>,
    /// The configuration that a signal brought, and its retry.
    pending: Option<(Retry, Arc<C>)>,
}

struct Retry {
    class: RetryClass,
    at: Instant,
    pauses: Backoff,
}

impl<C> Retries<C> {
    pub(super) fn new() -> Self {
        Self { in_service: None, pending: None }
    }

    /// Returns the time of the next retry.
    pub(super) fn next(&self) -> Option<Instant> {
        let in_service = self.in_service.as_ref().map(|retry| retry.at);
        let pending = self.pending.as_ref().map(|(retry, _)| retry.at);
        in_service.into_iter().chain(pending).min()
    }

    /// Returns the configuration of the next retry, if it is not the one in service.
    pub(super) fn next_config(&self) -> Option<Arc<C>> {
        let (retry, config) = self.pending.as_ref()?;
        if Some(retry.at) == self.next() { Some(config.clone()) } else { None }
    }

    /// Schedules what follows a reload with this configuration. `failed` says why not everything was published.
    pub(super) fn schedule(
        &mut self,
        trigger: Trigger,
        config: Arc<C>,
        failed: Option<RetryClass>,
        in_service: &Arc<C>,
    ) {
        if Arc::ptr_eq(&config, in_service) {
            self.in_service = follow(trigger, failed, self.in_service.take());
            if let Some((_, pending)) = &self.pending
                && (trigger == Trigger::Signal || Arc::ptr_eq(pending, in_service))
            {
                self.pending = None;
            }
        } else {
            let before = self.pending.take().map(|(retry, _)| retry);
            self.pending = follow(trigger, failed, before).map(|retry| (retry, config));
        }
    }
}

/// Returns the retry after a reload that failed. Its pauses go on from those of `before` if that reload was a retry too.
fn follow(trigger: Trigger, failed: Option<RetryClass>, before: Option<Retry>) -> Option<Retry> {
    let class = failed?;
    let mut pauses = match before {
        Some(before) if trigger == Trigger::Retry && before.class == class => before.pauses,
        _ => first_pauses(class)?,
    };
    Some(Retry { class, at: pauses.next()?, pauses })
}

fn first_pauses(class: RetryClass) -> Option<Backoff> {
    match class {
        RetryClass::Rejected => Some(Backoff::until(Instant::now() + ROTATION_WINDOW)),
        RetryClass::Unavailable => Some(Backoff::capped_at(LONGEST_PAUSE)),
        RetryClass::Permanent => None,
    }
}
