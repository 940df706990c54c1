//! Retries: reloads that follow one that failed, while they may help.

use crate::{backoff::Backoff, loader::RetryClass, status::reload_record::Trigger};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The first pause between reloads that look for the successor of a rejected version. Requests wait for it.
const FIRST_PAUSE_OF_REJECTED: Duration = Duration::from_millis(250);

/// The longest pause between these reloads.
const LONGEST_PAUSE_OF_REJECTED: Duration = Duration::from_secs(15);

/// The longest pause between reloads while the manager or the database does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The retries that are due. The configuration in service has one. A new configuration that a signal brought has its own
/// until it is published.
///
/// Two configurations are the same if they are one `Arc`: a reload that changes no setting gets the `Arc` in service.
pub(super) struct Retries<C> {
    in_service: Option<Retry>,
    /// The configuration that a signal brought and that could not be published yet, with its retry.
    unpublished: Option<(Retry, Arc<C>)>,
}

struct Retry {
    class: RetryClass,
    at: Instant,
    pauses: Backoff,
}

impl<C> Retries<C> {
    pub(super) fn new() -> Self {
        Self { in_service: None, unpublished: None }
    }

    /// Returns the time of the next retry.
    pub(super) fn next(&self) -> Option<Instant> {
        let in_service = self.in_service.as_ref().map(|retry| retry.at);
        let unpublished = self.unpublished.as_ref().map(|(retry, _)| retry.at);
        in_service.into_iter().chain(unpublished).min()
    }

    /// Returns the configuration of the next retry, if it is not the one in service.
    pub(super) fn next_config(&self) -> Option<Arc<C>> {
        let (retry, config) = self.unpublished.as_ref()?;
        if Some(retry.at) == self.next() { Some(config.clone()) } else { None }
    }

    /// Forgets the configuration that could not be published.
    pub(super) fn forget_unpublished(&mut self) {
        self.unpublished = None;
    }

    /// Schedules the retry that follows a reload with this configuration. `class` is `None` if none is needed. It may be
    /// `Some` after a reload that published, because a credential that was carried over is fetched again.
    pub(super) fn schedule(
        &mut self,
        trigger: Trigger,
        config: Arc<C>,
        class: Option<RetryClass>,
        in_service: &Arc<C>,
    ) {
        if !Arc::ptr_eq(&config, in_service) {
            let before = self.unpublished.take().map(|(retry, _)| retry);
            self.unpublished = follow(trigger, class, before).map(|retry| (retry, config));
            return;
        }
        self.in_service = follow(trigger, class, self.in_service.take());
        if let Some((_, unpublished)) = &self.unpublished {
            // A signal that brings the configuration in service takes the unpublished one back.
            let was_taken_back = trigger == Trigger::Signal;
            let was_published = Arc::ptr_eq(unpublished, in_service);
            if was_taken_back || was_published {
                self.unpublished = None;
            }
        }
    }
}

/// Returns the retry that follows a reload, if one may help. Its pauses go on from those of `before` if that reload was a
/// retry too.
fn follow(trigger: Trigger, class: Option<RetryClass>, before: Option<Retry>) -> Option<Retry> {
    let class = class?;
    let mut pauses = match before {
        Some(before) if trigger == Trigger::Retry && before.class == class => before.pauses,
        _ => first_pauses(class)?,
    };
    Some(Retry { class, at: pauses.next()?, pauses })
}

fn first_pauses(class: RetryClass) -> Option<Backoff> {
    match class {
        RetryClass::Rejected => Some(Backoff::from_to(FIRST_PAUSE_OF_REJECTED, LONGEST_PAUSE_OF_REJECTED)),
        RetryClass::Unavailable => Some(Backoff::capped_at(LONGEST_PAUSE)),
        RetryClass::Permanent => None,
    }
}
