//! Which versions of which credentials the other side refuses, and when each may be tried again. A password that is
//! wrong, asked for again and again, would lock the account out.

use super::Refusal;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How long a version that was refused is closed, before one probe. Doubles with each further refusal.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause before a probe.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// How often a version may have been refused for a person to have it tried before its pause is over.
const ASKED: u32 = 3;

/// Why a version is tried that was refused before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It is time, or a request needs it: only when its pause is over.
    Routine,
    /// A person asked for it: before that too, three times at most.
    Asked,
    /// Another version, the one in service, was accepted until now and is refused: this one may be good by now. As often
    /// as that happens.
    News,
}

/// The standing of every version that was tried lately, whether or not a generation holds it.
#[derive(Default)]
pub(crate) struct Standings(Mutex<BTreeMap<String, Arc<Standing>>>);

impl Standings {
    /// The standing of what has this origin: a version of a credential at one place.
    pub(crate) fn of(&self, origin: &str, now: Instant) -> Arc<Standing> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, standing| Arc::strong_count(standing) > 1 || standing.matters(now));
        all.entry(origin.to_owned()).or_default().clone()
    }
}

/// How one version stands with the other side.
pub(crate) struct Standing(watch::Sender<Option<Refused>>);

#[derive(Clone)]
struct Refused {
    refusal: Refusal,
    times: u32,
    /// When one probe may be made.
    probe: Instant,
}

impl Refused {
    /// The pause after so many refusals, give or take 10 %.
    fn pause(times: u32) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
        pause.mul_f64(0.9 + 0.2 * fastrand::f64())
    }
}

impl Default for Standing {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Standing {
    /// Whether the version may be tried now. Who is told so tries it: it was the one probe of its time.
    pub(crate) fn admit(&self, occasion: Occasion, now: Instant) -> Result<(), Refusal> {
        let mut answer = Ok(());
        self.0.send_if_modified(|refused| {
            if let Some(refused) = refused {
                let early = match occasion {
                    Occasion::Routine => false,
                    Occasion::Asked => refused.times < ASKED,
                    Occasion::News => true,
                };
                if now >= refused.probe {
                    refused.probe = now + Refused::pause(refused.times + 1);
                } else if !early {
                    answer = Err(refused.refusal.clone());
                }
            }
            false
        });
        answer
    }

    /// It was tried, and refused. `true`: for the first time.
    pub(crate) fn refused(&self, refusal: Refusal, now: Instant) -> bool {
        let mut first = false;
        self.0.send_modify(|refused| {
            first = refused.is_none();
            let times = refused.as_ref().map_or(0, |refused| refused.times) + 1;
            *refused = Some(Refused { refusal, times, probe: now + Refused::pause(times) });
        });
        first
    }

    /// It was tried, and the answer was neither. The next probe need not wait as long as after a refusal.
    pub(crate) fn undecided(&self, now: Instant) {
        self.0.send_if_modified(|refused| {
            if let Some(refused) = refused {
                refused.probe = refused.probe.min(now + FIRST_PAUSE);
            }
            false
        });
    }

    /// Waits until it is not refused, or not any more.
    pub(crate) async fn accepted_again(&self) {
        // The sender is ours, so it does not fail.
        let _ = self.0.subscribe().wait_for(Option::is_none).await;
    }

    /// It was tried, and is good.
    pub(crate) fn accepted(&self) {
        self.0.send_if_modified(|refused| refused.take().is_some());
    }

    /// What the other side said, while it refuses this version.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.0.borrow().as_ref().map(|refused| refused.refusal.clone())
    }

    /// Refusals from now on.
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }

    /// Whether it still keeps anybody from trying.
    fn matters(&self, now: Instant) -> bool {
        self.0.borrow().as_ref().is_some_and(|refused| now < refused.probe + LONGEST_PAUSE)
    }
}

/// Refusals since it was made.
pub(crate) struct Watch(watch::Receiver<Option<Refused>>);

impl Watch {
    /// Waits for the next refusal.
    pub(crate) async fn refused(&mut self) -> Refusal {
        while self.0.changed().await.is_ok() {
            if let Some(refused) = &*self.0.borrow_and_update() {
                return refused.refusal.clone();
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::{Occasion::*, *};
    use crate::secrets::VersionId;

    fn refusal() -> Refusal {
        Refusal { credential: "c", subject: "s".into(), version: VersionId::new("v"), reason: "r".into() }
    }

    #[test]
    fn a_version_that_is_refused_gets_one_probe_after_ever_longer_pauses() {
        let (standing, mut now) = (Standing::default(), Instant::now());
        assert!(standing.admit(Routine, now).is_ok());
        assert!(standing.refused(refusal(), now));
        for (closed, open) in [(26, 34), (53, 67), (107, 133), (215, 265), (269, 331), (269, 331)] {
            assert!(standing.admit(Routine, now + Duration::from_secs(closed)).is_err(), "after {closed} s");
            now += Duration::from_secs(open);
            assert!(standing.admit(Routine, now).is_ok(), "after {open} s");
            assert!(standing.admit(Routine, now).is_err(), "one probe, and no more");
            assert!(!standing.refused(refusal(), now));
        }
        standing.accepted();
        assert!(standing.admit(Routine, now).is_ok() && standing.refusal().is_none());
    }

    #[test]
    fn a_person_may_ask_three_times_and_news_always_count() {
        let (standing, now) = (Standing::default(), Instant::now());
        for _ in 0..3 {
            assert!(standing.admit(Asked, now).is_ok());
            standing.refused(refusal(), now);
        }
        assert!(standing.admit(Asked, now).is_err());
        assert!(standing.admit(News, now).is_ok());
    }

    #[test]
    fn a_refusal_is_remembered_while_it_keeps_anybody_from_trying() {
        let (standings, now) = (Standings::default(), Instant::now());
        standings.of("a", now).refused(refusal(), now);
        assert!(standings.of("a", now).admit(Routine, now).is_err());
        let later = now + Duration::from_secs(11 * 60);
        standings.of("b", later);
        assert!(standings.of("a", later).refusal().is_none());
    }
}
