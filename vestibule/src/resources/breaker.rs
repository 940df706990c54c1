//! Which versions of which credentials the other side rejects, and when each may be tried again. A password that is
//! wrong, asked for again and again, would lock the account out.

use super::rejection::Rejection;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How long a version that was rejected is closed, before one probe. Doubles with each further rejection.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause before a probe.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// How often a version may have been rejected for a person to have it tried before its pause is over.
const OPERATOR_TRIES: u32 = 3;

/// Why a version is tried that was rejected before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeReason {
    /// It is time, or a request needs it: only when its pause is over.
    Scheduled,
    /// A person asked for it: before that too, three times at most.
    Operator,
    /// Another version, the one in service, was accepted until now and is rejected: this one may be good by now. As often
    /// as that happens.
    CurrentRejected,
}

/// The breaker of every version that was tried lately, whether or not a generation holds it.
#[derive(Default)]
pub(crate) struct Breakers(Mutex<BTreeMap<String, Arc<Breaker>>>);

impl Breakers {
    /// The breaker of what has this origin: a version of a credential at one place.
    pub(crate) fn of(&self, origin: &str, now: Instant) -> Arc<Breaker> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, breaker| Arc::strong_count(breaker) > 1 || breaker.matters(now));
        all.entry(origin.to_owned()).or_default().clone()
    }
}

/// How one version stands with the other side.
pub(crate) struct Breaker(watch::Sender<Option<OpenBreaker>>);

#[derive(Clone)]
struct OpenBreaker {
    rejection: Rejection,
    times: u32,
    /// When one probe may be made.
    probe: Instant,
}

impl OpenBreaker {
    /// The pause after so many refusals, give or take 10 %.
    fn pause(times: u32) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << times.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
        pause.mul_f64(0.9 + 0.2 * fastrand::f64())
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Breaker {
    /// Whether the version may be tried now. Who is told so tries it: it was the one probe of its time.
    pub(crate) fn allow(&self, reason: ProbeReason, now: Instant) -> Result<(), Rejection> {
        let mut answer = Ok(());
        self.0.send_if_modified(|rejected| {
            if let Some(rejected) = rejected {
                let early = match reason {
                    ProbeReason::Scheduled => false,
                    ProbeReason::Operator => rejected.times < OPERATOR_TRIES,
                    ProbeReason::CurrentRejected => true,
                };
                if now >= rejected.probe {
                    rejected.probe = now + OpenBreaker::pause(rejected.times + 1);
                } else if !early {
                    answer = Err(rejected.rejection.clone());
                }
            }
            false
        });
        answer
    }

    /// It was tried, and rejected. `true`: for the first time.
    pub(crate) fn rejected(&self, rejection: Rejection, now: Instant) -> bool {
        let mut first = false;
        self.0.send_modify(|rejected| {
            first = rejected.is_none();
            let times = rejected.as_ref().map_or(0, |rejected| rejected.times) + 1;
            *rejected = Some(OpenBreaker { rejection, times, probe: now + OpenBreaker::pause(times) });
        });
        first
    }

    /// It was tried, and the answer was neither. The next probe need not wait as long as after a rejection.
    pub(crate) fn inconclusive(&self, now: Instant) {
        self.0.send_if_modified(|rejected| {
            if let Some(rejected) = rejected {
                rejected.probe = rejected.probe.min(now + FIRST_PAUSE);
            }
            false
        });
    }

    /// Waits until it is not rejected, or not any more.
    pub(crate) async fn accepted_again(&self) {
        // The sender is ours, so it does not fail.
        let _ = self.0.subscribe().wait_for(Option::is_none).await;
    }

    /// It was tried, and is good.
    pub(crate) fn accepted(&self) {
        self.0.send_if_modified(|rejected| rejected.take().is_some());
    }

    /// What the other side said, while it rejects this version.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        self.0.borrow().as_ref().map(|rejected| rejected.rejection.clone())
    }

    /// Refusals from now on.
    pub(crate) fn watch(&self) -> RejectionWatch {
        RejectionWatch(self.0.subscribe())
    }

    /// Whether it still keeps anybody from trying.
    fn matters(&self, now: Instant) -> bool {
        self.0.borrow().as_ref().is_some_and(|rejected| now < rejected.probe + LONGEST_PAUSE)
    }
}

/// Refusals since it was made.
pub(crate) struct RejectionWatch(watch::Receiver<Option<OpenBreaker>>);

impl RejectionWatch {
    /// Waits for the next rejection.
    pub(crate) async fn rejected(&mut self) -> Rejection {
        while self.0.changed().await.is_ok() {
            if let Some(rejected) = &*self.0.borrow_and_update() {
                return rejected.rejection.clone();
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::{ProbeReason::*, *};
    use crate::secrets::VersionId;

    fn rejection() -> Rejection {
        Rejection { credential: "c", subject: "s".into(), version: VersionId::new("v"), reason: "r".into() }
    }

    #[test]
    fn a_version_that_is_refused_gets_one_probe_after_ever_longer_pauses() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        assert!(breaker.allow(Scheduled, now).is_ok());
        assert!(breaker.rejected(rejection(), now));
        for (closed, open) in [(26, 34), (53, 67), (107, 133), (215, 265), (269, 331), (269, 331)] {
            assert!(breaker.allow(Scheduled, now + Duration::from_secs(closed)).is_err(), "after {closed} s");
            now += Duration::from_secs(open);
            assert!(breaker.allow(Scheduled, now).is_ok(), "after {open} s");
            assert!(breaker.allow(Scheduled, now).is_err(), "one probe, and no more");
            assert!(!breaker.rejected(rejection(), now));
        }
        breaker.accepted();
        assert!(breaker.allow(Scheduled, now).is_ok() && breaker.rejection().is_none());
    }

    #[test]
    fn a_person_may_ask_three_times_and_news_always_count() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..3 {
            assert!(breaker.allow(Operator, now).is_ok());
            breaker.rejected(rejection(), now);
        }
        assert!(breaker.allow(Operator, now).is_err());
        assert!(breaker.allow(CurrentRejected, now).is_ok());
    }

    #[test]
    fn a_refusal_is_remembered_while_it_keeps_anybody_from_trying() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        breakers.of("a", now).rejected(rejection(), now);
        assert!(breakers.of("a", now).allow(Scheduled, now).is_err());
        let later = now + Duration::from_secs(11 * 60);
        breakers.of("b", later);
        assert!(breakers.of("a", later).rejection().is_none());
    }
}
