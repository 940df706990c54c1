//! How what a generation holds asks the reload actor for a trip. A bell knows no generation, so any may hold it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// How long one unknown key keeps others from asking: anybody can make one up.
const UNKNOWN_KEYS: Duration = Duration::from_secs(30);

/// Rung by resources, heard by the reload actor. Any number of rings before it listens costs one trip.
#[derive(Default)]
pub(crate) struct Bell {
    refused: Notify,
    news: AtomicBool,
    unknown_key: Notify,
    last_unknown_key: Mutex<Option<Instant>>,
    under_way: watch::Sender<bool>,
}

impl Bell {
    /// The other side refuses a credential of the generation in service. `news`: which it accepted until now.
    pub(crate) fn refused(&self, news: bool) {
        self.news.fetch_or(news, Ordering::AcqRel);
        self.refused.notify_one();
    }

    /// A client brought what a key has signed that is not held: another replica may hold it already.
    pub(crate) fn unknown_key(&self) {
        let mut last = self.last_unknown_key.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() >= UNKNOWN_KEYS) {
            *last = Some(Instant::now());
            self.unknown_key.notify_one();
        }
    }

    /// `true`: with news.
    pub(crate) async fn hear_refused(&self) -> bool {
        self.refused.notified().await;
        self.news.swap(false, Ordering::AcqRel)
    }

    pub(crate) async fn hear_unknown_key(&self) {
        self.unknown_key.notified().await;
    }

    /// Whether a trip is under way.
    pub(crate) fn trip(&self, under_way: bool) {
        self.under_way.send_replace(under_way);
    }

    /// Waits while a trip is under way.
    pub(crate) async fn quiet(&self) {
        // The sender is ours, so it does not fail.
        let _ = self.under_way.subscribe().wait_for(|under_way| !under_way).await;
    }
}
