//! How what a generation holds asks the reload actor for a trip. A bell knows no generation, so any may hold it.

use crate::secrets::{Name, VersionId};
use std::{
    collections::BTreeMap,
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
    refused_key: Notify,
    refused_keys: Mutex<BTreeMap<Name, VersionId>>,
    trips: watch::Sender<Trips>,
}

/// How many there were. One that has begun and not ended is under way.
#[derive(Default)]
struct Trips {
    begun: u64,
    ended: u64,
    /// There will be no more.
    over: bool,
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

    /// Another service refuses this version of an API key. Returns the number of the first trip that begins after this.
    pub(crate) fn refused_key(&self, credential: Name, version: VersionId) -> u64 {
        let trip = self.trips.borrow().begun + 1;
        self.refused_keys.lock().unwrap_or_else(PoisonError::into_inner).insert(credential, version);
        self.refused_key.notify_one();
        trip
    }

    /// `true`: with news.
    pub(crate) async fn hear_refused(&self) -> bool {
        self.refused.notified().await;
        self.news.swap(false, Ordering::AcqRel)
    }

    pub(crate) async fn hear_unknown_key(&self) {
        self.unknown_key.notified().await;
    }

    /// Which ones.
    pub(crate) async fn hear_refused_keys(&self) -> BTreeMap<Name, VersionId> {
        self.refused_key.notified().await;
        std::mem::take(&mut self.refused_keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a trip is under way.
    pub(crate) fn trip(&self, under_way: bool) {
        self.trips.send_modify(|trips| match under_way {
            true => trips.begun += 1,
            false => trips.ended = trips.begun,
        });
    }

    /// There will be no more trips: nobody waits for one.
    pub(crate) fn silence(&self) {
        self.trips.send_modify(|trips| trips.over = true);
    }

    /// Waits while a trip is under way.
    pub(crate) async fn quiet(&self) {
        // The sender is ours, so it does not fail.
        let _ = self.trips.subscribe().wait_for(|trips| trips.over || trips.ended == trips.begun).await;
    }

    /// Waits for the end of the trip of this number.
    pub(crate) async fn ended(&self, trip: u64) {
        let _ = self.trips.subscribe().wait_for(|trips| trips.over || trips.ended >= trip).await;
    }
}
