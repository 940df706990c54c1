//! Circuit breakers: which version of a credential the other side rejects, and when it may be tried again.
//!
//! A version that is not rejected may be tried at any time. A rejected version has a pause: 30 s after the first
//! rejection, twice as long after each further one, 5 min at most, give or take 10 %. When the pause is over, one attempt
//! is allowed. A wrong password that is tried again and again would lock the account out.

use super::rejection::Rejection;
use crate::jitter;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The pause after the first rejection of a version. It doubles with each further rejection.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause, before its jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// The number of rejections after which an operator's reload waits for the end of the pause, as a scheduled attempt does.
const OPERATOR_LIMIT: u32 = 3;

/// The reason for which a load or a request wants to try a version of a credential.
///
/// It matters only if the other side rejected that version before. Such a version has a pause, which grows from 30 s to
/// 5 min. At the end of the pause, one attempt is allowed for any reason. During the pause, the reason decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeReason {
    /// A routine attempt: a poll, a retry, a start, or a request that needs a connection. Never allowed during the pause.
    Scheduled,
    /// An operator asked for a reload, or a start is half-way to its deadline. Allowed during the pause, as long as the
    /// version was rejected fewer than three times.
    Operator,
    /// The other side has just rejected the version in service, which it accepted until then. The version to try is
    /// another one, and may be good by now. Always allowed during the pause.
    CurrentRejected,
}

/// The breakers of all versions that were tried lately. They outlive the generations.
#[derive(Default)]
pub(crate) struct Breakers(Mutex<BTreeMap<String, Arc<Breaker>>>);

impl Breakers {
    /// Returns the breaker of one version of a credential at one place. `origin` names both.
    pub(crate) fn of(&self, origin: &str, now: Instant) -> Arc<Breaker> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, breaker| Arc::strong_count(breaker) > 1 || breaker.is_remembered(now));
        all.entry(origin.to_owned()).or_default().clone()
    }
}

/// The circuit breaker of one version of a credential. It is open while the other side rejects that version.
pub(crate) struct Breaker {
    /// `None` while the breaker is closed.
    open: watch::Sender<Option<OpenBreaker>>,
}

#[derive(Clone)]
struct OpenBreaker {
    /// The last rejection.
    rejection: Rejection,
    /// The number of rejections in a row.
    rejections: u32,
    /// The end of the pause: the time from which on one attempt is allowed for any reason.
    next_probe: Instant,
}

impl OpenBreaker {
    /// Returns the pause after this many rejections, give or take 10 %.
    fn pause(rejections: u32) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << rejections.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
        pause.mul_f64(jitter::factor(0.1))
    }

    /// Allows or denies one attempt. Begins a new pause if the pause is over.
    fn allow(&mut self, reason: ProbeReason, now: Instant) -> Result<(), Rejection> {
        if now >= self.next_probe {
            self.next_probe = now + Self::pause(self.rejections + 1);
            return Ok(());
        }
        let allowed_early = match reason {
            ProbeReason::Scheduled => false,
            ProbeReason::Operator => self.rejections < OPERATOR_LIMIT,
            ProbeReason::CurrentRejected => true,
        };
        if allowed_early { Ok(()) } else { Err(self.rejection.clone()) }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { open: watch::Sender::new(None) }
    }
}

impl Breaker {
    /// Allows or denies one attempt to use the version at the other side. The attempt at the end of a pause begins a new
    /// pause.
    ///
    /// - If the version is not rejected, every attempt is allowed.
    /// - If it is rejected and its pause is over, this attempt is allowed. Because a new pause begins, at most one caller
    ///   per pause gets this attempt.
    /// - During the pause, [`ProbeReason`] says who may try nevertheless. Such an attempt does not change the pause.
    ///
    /// A caller that is allowed makes the attempt, and reports its result: [`accepted`](Self::accepted),
    /// [`rejected`](Self::rejected) or [`inconclusive`](Self::inconclusive). Without a report, the new pause takes its
    /// whole time.
    ///
    /// # Errors
    /// The last rejection, if the attempt is denied.
    pub(crate) fn allow(&self, reason: ProbeReason, now: Instant) -> Result<(), Rejection> {
        let mut result = Ok(());
        self.open.send_if_modified(|open| {
            if let Some(open) = open {
                result = open.allow(reason, now);
            }
            // `false`: waiting tasks are not woken, because the version stays rejected.
            false
        });
        result
    }

    /// Reports that the other side rejected the version. Begins a pause. Returns `true` if the version was not rejected
    /// before.
    pub(crate) fn rejected(&self, rejection: Rejection, now: Instant) -> bool {
        let mut is_first = false;
        self.open.send_modify(|open| {
            is_first = open.is_none();
            let rejections = match open {
                Some(open) => open.rejections + 1,
                None => 1,
            };
            let next_probe = now + OpenBreaker::pause(rejections);
            *open = Some(OpenBreaker { rejection, rejections, next_probe });
        });
        is_first
    }

    /// Reports an attempt that neither succeeded nor was rejected. The next attempt is allowed after 30 s at most.
    pub(crate) fn inconclusive(&self, now: Instant) {
        self.open.send_if_modified(|open| {
            if let Some(open) = open {
                open.next_probe = open.next_probe.min(now + FIRST_PAUSE);
            }
            false
        });
    }

    /// Reports that the other side accepted the version. Closes the breaker.
    pub(crate) fn accepted(&self) {
        self.open.send_if_modified(|open| open.take().is_some());
    }

    /// Waits until the version is not rejected.
    pub(crate) async fn accepted_again(&self) {
        // The sender is ours, so it does not fail.
        let _ = self.open.subscribe().wait_for(Option::is_none).await;
    }

    /// Returns the last rejection, while the breaker is open.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        let open = self.open.borrow();
        Some(open.as_ref()?.rejection.clone())
    }

    /// Returns a watch of the rejections from now on.
    pub(crate) fn watch(&self) -> RejectionWatch {
        RejectionWatch(self.open.subscribe())
    }

    /// Returns `true` if the rejection is still kept, although nobody uses the version.
    fn is_remembered(&self, now: Instant) -> bool {
        match &*self.open.borrow() {
            Some(open) => now < open.next_probe + LONGEST_PAUSE,
            None => false,
        }
    }
}

/// A watch of the rejections since it was made.
pub(crate) struct RejectionWatch(watch::Receiver<Option<OpenBreaker>>);

impl RejectionWatch {
    /// Waits for the next rejection, and returns it.
    pub(crate) async fn next(&mut self) -> Rejection {
        while self.0.changed().await.is_ok() {
            if let Some(open) = &*self.0.borrow_and_update() {
                return open.rejection.clone();
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::id::VersionId;

    fn rejection() -> Rejection {
        Rejection { credential: "c", subject: "s".into(), version: VersionId::new("v"), reason: "r".into() }
    }

    #[test]
    fn a_rejected_version_gets_one_probe_after_ever_longer_pauses() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        assert!(breaker.allow(ProbeReason::Scheduled, now).is_ok());
        assert!(breaker.rejected(rejection(), now));
        for (during, after) in [(26, 34), (53, 67), (107, 133), (215, 265), (269, 331), (269, 331)] {
            let early = now + Duration::from_secs(during);
            assert!(breaker.allow(ProbeReason::Scheduled, early).is_err(), "after {during} s");
            now += Duration::from_secs(after);
            assert!(breaker.allow(ProbeReason::Scheduled, now).is_ok(), "after {after} s");
            assert!(breaker.allow(ProbeReason::Scheduled, now).is_err(), "one probe, and no more");
            assert!(!breaker.rejected(rejection(), now));
        }
        breaker.accepted();
        assert!(breaker.allow(ProbeReason::Scheduled, now).is_ok() && breaker.rejection().is_none());
    }

    #[test]
    fn an_operator_may_probe_early_three_times_and_a_rejected_current_version_always_allows_it() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..3 {
            assert!(breaker.allow(ProbeReason::Operator, now).is_ok());
            breaker.rejected(rejection(), now);
        }
        assert!(breaker.allow(ProbeReason::Operator, now).is_err());
        assert!(breaker.allow(ProbeReason::CurrentRejected, now).is_ok());
    }

    #[test]
    fn a_rejection_is_remembered_while_it_keeps_anybody_from_trying() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        breakers.of("a", now).rejected(rejection(), now);
        assert!(breakers.of("a", now).allow(ProbeReason::Scheduled, now).is_err());
        let later = now + Duration::from_secs(11 * 60);
        breakers.of("b", later);
        assert!(breakers.of("a", later).rejection().is_none());
    }
}
