//! The keys of the issuer: fetched before the service starts, and again while it runs.

use super::{key_set::KeySet, key_source::KeySource, metrics::AuthMetrics};
use crate::{blocking_reads::FileReads, config::settings::auth::AuthConfig, exit::Fault, jitter, moment::Moment};
use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::{sync::OwnedMutexGuard, task::JoinHandle, time::Instant};

/// The longest time of one fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest time between two fetches for unknown keys, so that made-up ones do not become a flood at the issuer. Also
/// the pause after a fetch that failed.
pub(super) const PAUSE: Duration = Duration::from_secs(30);

/// The keys of an issuer. The generations that have the same issuer share them.
pub(crate) struct IssuerKeys {
    source: KeySource,
    refresh_every: Duration,
    metrics: AuthMetrics,
    held: Mutex<HeldKeys>,
    /// The end of the last fetch for an unknown key. One such fetch runs at a time.
    fetched_for_unknown: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

/// The keys in use.
#[derive(Clone)]
pub(super) struct HeldKeys {
    pub(super) set: Arc<KeySet>,
    /// The time at which the issuer last confirmed them.
    pub(super) fetched: Moment,
    /// The time at which the fetch that confirmed them began.
    began: Instant,
    /// `true` if the last fetch failed.
    is_failing: bool,
}

/// The reason for which an unknown key cannot be looked up now.
#[derive(Clone, Copy)]
pub(super) enum NotLookedUp {
    /// The issuer answers, but was asked a moment ago. It is asked again after this time.
    TooSoon(Duration),
    /// The last fetch failed. The next one comes after this time at the latest.
    IssuerAway(Duration),
}

impl IssuerKeys {
    /// Fetches the keys, and keeps them fresh while somebody uses them.
    ///
    /// # Errors
    /// A fault if they cannot be fetched before the deadline.
    pub(super) async fn fetch(
        config: &AuthConfig,
        metrics: &AuthMetrics,
        deadline: Instant,
        files: &FileReads,
    ) -> Result<Arc<Self>, Fault> {
        let source = KeySource::of(config, files).await?;
        let began = Instant::now();
        let deadline = deadline.min(began + FETCH_TIMEOUT);
        let set = source.fetch(deadline).await.map_err(|error| {
            metrics.fetch_failed();
            let remedy = format!("check {}, and the network to the issuer", source.setting());
            Fault::new(error.exit, format!("the keys of the issuer at {}", source.authority()), error.problem, remedy)
        })?;
        metrics.begin();
        metrics.fetched();
        let held = HeldKeys { set: Arc::new(set), fetched: Moment::now(), began, is_failing: false };
        let keys = Arc::new(Self {
            source,
            refresh_every: config.refresh_every,
            metrics: metrics.clone(),
            held: Mutex::new(held),
            fetched_for_unknown: Arc::default(),
        });
        tokio::spawn(refresh(Arc::downgrade(&keys), config.refresh_every));
        Ok(keys)
    }

    /// Returns `true` if these are the keys that the configuration asks for.
    pub(super) fn are_of(&self, config: &AuthConfig) -> bool {
        self.source.is_of(config) && self.refresh_every == config.refresh_every
    }

    pub(super) fn held(&self) -> HeldKeys {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns a set that may have a key which `seen` has not: fetches it, unless that was done a moment ago. Requests that
    /// ask at the same time share one fetch.
    ///
    /// The result is `Ok` if the issuer has confirmed the set since this was called: then it has no other keys.
    pub(super) async fn newer_than(self: &Arc<Self>, seen: &Arc<KeySet>) -> (Arc<KeySet>, Result<(), NotLookedUp>) {
        let held = self.held();
        if held.is_failing {
            // Nobody waits for an issuer that did not answer the last time.
            if let Ok(last) = self.fetched_for_unknown.clone().try_lock_owned()
                && pause_after(*last).is_zero()
            {
                self.fetch_for_unknown(last);
            }
            return (held.set, Err(NotLookedUp::IssuerAway(PAUSE)));
        }
        let last = self.fetched_for_unknown.clone().lock_owned().await;
        let (pause, held) = (pause_after(*last), self.held());
        if held.is_failing {
            return (held.set, Err(NotLookedUp::IssuerAway(PAUSE)));
        }
        if !pause.is_zero() || !Arc::ptr_eq(&held.set, seen) {
            return (held.set, Err(NotLookedUp::TooSoon(pause)));
        }
        let is_confirmed = self.fetch_for_unknown(last).await.unwrap_or(false);
        (self.held().set, if is_confirmed { Ok(()) } else { Err(NotLookedUp::IssuerAway(PAUSE)) })
    }

    /// Fetches the keys in a task of its own: it goes on for others if the client of this request goes away.
    fn fetch_for_unknown(self: &Arc<Self>, mut last: OwnedMutexGuard<Option<Instant>>) -> JoinHandle<bool> {
        let keys = self.clone();
        tokio::spawn(async move {
            let is_confirmed = keys.refetch().await;
            *last = Some(Instant::now());
            is_confirmed
        })
    }

    /// Fetches the keys again. Keeps those in use if that fails. Returns `true` if the issuer has confirmed those in use
    /// since this was called.
    async fn refetch(&self) -> bool {
        let began = Instant::now();
        let fetched = self.source.fetch(began + FETCH_TIMEOUT).await;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(_) => self.metrics.fetched(),
            Err(_) => self.metrics.fetch_failed(),
        }
        if began < held.began {
            // Another fetch began later and has ended already: what this one says is older.
            return true;
        }
        let issuer = self.source.authority();
        match fetched {
            Ok(set) => {
                if held.is_failing {
                    tracing::info!(issuer, "the keys of the issuer can be fetched again");
                }
                if set.version != held.set.version {
                    tracing::info!(issuer, version = set.version, "the issuer has other keys; they are in use now");
                    held.set = Arc::new(set.after(&held.set));
                }
                held.fetched = Moment::now();
                held.began = began;
                held.is_failing = false;
                true
            }
            Err(error) => {
                if !held.is_failing {
                    tracing::warn!(
                        issuer,
                        error = error.problem,
                        "the keys of the issuer cannot be fetched; those in use stay until auth.max_stale"
                    );
                }
                held.is_failing = true;
                false
            }
        }
    }
}

/// Returns the time that is left until the next fetch for an unknown key, after the last one.
fn pause_after(last: Option<Instant>) -> Duration {
    last.map_or(Duration::ZERO, |last| PAUSE.saturating_sub(last.elapsed()))
}

/// Fetches the keys again and again, until nobody uses them.
async fn refresh(keys: Weak<IssuerKeys>, every: Duration) {
    let mut pause = every;
    loop {
        tokio::time::sleep(pause.mul_f64(jitter::factor(0.1))).await;
        let Some(keys) = keys.upgrade() else { return };
        pause = if keys.refetch().await { every } else { PAUSE };
    }
}
