//! Retries: reloads that follow one that failed, while they may help.

use crate::{
    backoff::Backoff,
    loader::{LoadScope, retry_class::RetryClass},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The longest pause between reloads while the manager or the database does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The time for which a file that is not TOML is read again. Who writes a file needs less. Whoever mends a mistake sends
/// another signal: their next save may not be the last one.
const TIME_TO_WRITE_A_FILE: Duration = Duration::from_secs(60);

/// The retries that are due. The configuration in service has one. A new configuration that a signal brought has its own
/// until it is published.
///
/// Two configurations are the same if they are one `Arc`: a reload that changes no setting gets the `Arc` in service.
pub(super) struct Retries<C> {
    in_service: Option<Retry>,
    /// The configuration that a signal brought and that could not be published yet, with its retry.
    unpublished: Option<(Retry, Unpublished<C>)>,
}

/// A configuration that a signal brought.
enum Unpublished<C> {
    /// Its files could not be read yet.
    Unread,
    Read(Arc<C>),
}

/// The configuration of a retry.
pub(super) enum RetryWith<C> {
    InService,
    Unpublished(Arc<C>),
    /// It is read again, as for the signal that could not be followed.
    ReadAgain,
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

    /// Returns the configuration of the next retry.
    pub(super) fn next_config(&self) -> RetryWith<C> {
        match &self.unpublished {
            Some((retry, unpublished)) if Some(retry.at) == self.next() => match unpublished {
                Unpublished::Unread => RetryWith::ReadAgain,
                Unpublished::Read(config) => RetryWith::Unpublished(config.clone()),
            },
            _ => RetryWith::InService,
        }
    }

    /// Returns `true` if a configuration that a signal brought has a retry.
    pub(super) fn has_unpublished(&self) -> bool {
        self.unpublished.is_some()
    }

    /// Returns the credentials for which a repeated load with the configuration in service asks the manager: only those whose
    /// version is rejected, if nothing but their successors was missing in the load before it.
    pub(super) fn scope_of_repeated(&self) -> LoadScope {
        match &self.in_service {
            Some(retry) if retry.class == RetryClass::NoSuccessor => LoadScope::Doubted,
            _ => LoadScope::All,
        }
    }

    /// Schedules the retry that follows a configuration which could not be read. It takes the place of the one that a
    /// signal brought before.
    pub(super) fn schedule_unread(&mut self, is_repeated: bool, class: RetryClass) {
        let before = self.unpublished.take().map(|(retry, _)| retry);
        self.unpublished = follow(is_repeated, Some(class), before).map(|retry| (retry, Unpublished::Unread));
    }

    /// Schedules the retry that follows a reload with this configuration. `class` is `None` if none is needed. It may be
    /// `Some` after a reload that published, because a credential that was carried over is fetched again. `was_read` is
    /// `true` if the configuration was read for this reload.
    pub(super) fn schedule(
        &mut self,
        is_repeated: bool,
        was_read: bool,
        config: Arc<C>,
        class: Option<RetryClass>,
        in_service: &Arc<C>,
    ) {
        if !Arc::ptr_eq(&config, in_service) {
            let before = self.unpublished.take().map(|(retry, _)| retry);
            self.unpublished = follow(is_repeated, class, before).map(|retry| (retry, Unpublished::Read(config)));
            return;
        }
        self.in_service = follow(is_repeated, class, self.in_service.take());
        let was_published = match &self.unpublished {
            Some((_, Unpublished::Read(unpublished))) => Arc::ptr_eq(unpublished, in_service),
            _ => false,
        };
        // If the files have the configuration in service again, they take the unpublished one back.
        if was_read || was_published {
            self.unpublished = None;
        }
    }
}

/// Returns the retry that follows a reload, if one may help. Its pauses go on from those of `before` if that reload was
/// repeated.
fn follow(is_repeated: bool, class: Option<RetryClass>, before: Option<Retry>) -> Option<Retry> {
    let class = class?;
    let mut pauses = match before {
        Some(before) if is_repeated && before.class == class => before.pauses,
        _ => first_pauses(class)?,
    };
    Some(Retry { class, at: pauses.next()?, pauses })
}

fn first_pauses(class: RetryClass) -> Option<Backoff> {
    match class {
        RetryClass::Rejected | RetryClass::NoSuccessor => Some(Backoff::for_successor()),
        RetryClass::Unavailable | RetryClass::Unreadable => Some(Backoff::capped_at(LONGEST_PAUSE)),
        RetryClass::HalfWritten => Some(Backoff::lasting(TIME_TO_WRITE_A_FILE)),
        RetryClass::Permanent => None,
    }
}
