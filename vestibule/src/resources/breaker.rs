//! Circuit breakers: which version of a credential the other side rejects, and when it may be tried again.
//!
//! A version that is not rejected may be tried at any time. After a rejection, one attempt is allowed at the end of each
//! pause, `secrets.probe_every`. Operators have a budget of their own. A wrong password that is tried again and again would
//! lock the account out.

use super::rejection::Rejection;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

/// The number of attempts that operators have at once. One more comes with each pause.
const OPERATOR_BUDGET: f64 = 2.0;

/// The time for which a rejection is kept although nobody uses the version. It is counted from the end of the pause.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// The reason for which a load or a request wants to try a version of a credential.
///
/// It matters only if the other side rejected that version before. At the end of a pause, one attempt is allowed for any
/// reason. During the pause, the reason decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeReason {
    /// A routine attempt: a poll, a retry, a start, or a request that needs a connection. Never allowed during the pause.
    Scheduled,
    /// An operator asked for a reload, or a start is half-way to its deadline. Allowed during the pause while the
    /// operators' budget lasts: two attempts, and one more per pause. No other reason uses it up.
    Operator,
    /// The other side has just rejected the version in service, which it accepted until then. The version to try is
    /// another one, and may be good by now. Always allowed during the pause.
    CurrentRejected,
}

/// The breakers of all versions that were tried lately. They outlive the generations.
#[derive(Default)]
pub(crate) struct Breakers(Mutex<BTreeMap<String, Arc<Breaker>>>);

impl Breakers {
    /// Returns the breaker of one version of a credential at one place. `origin` names both. `pause` is
    /// `secrets.probe_every`.
    pub(super) fn of(&self, origin: &str, pause: Duration, now: Instant) -> Arc<Breaker> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, breaker| Arc::strong_count(breaker) > 1 || breaker.is_remembered(now));
        let breaker = all.entry(origin.to_owned()).or_default().clone();
        *breaker.pause.lock().unwrap_or_else(PoisonError::into_inner) = pause;
        breaker
    }
}

/// The state that all circuit breakers of one version at one place share. It is open while the other side rejects that
/// version.
pub(super) struct Breaker {
    /// `None` while the breaker is closed.
    open: Mutex<Option<OpenBreaker>>,
    /// The pause after a rejection: `secrets.probe_every`.
    pause: Mutex<Duration>,
}

struct OpenBreaker {
    /// The last rejection.
    rejection: Rejection,
    /// The time of the last rejection.
    last: Instant,
    /// The end of the pause: the time from which on one attempt is allowed for any reason.
    next_probe: Instant,
    /// The attempts that operators have left.
    operator_budget: f64,
    /// The time at which the operators' budget was counted.
    budget_at: Instant,
}

/// The permission to try a version once. The caller reports the result: [`accepted`](Self::accepted) or
/// [`rejected`](Self::rejected). If it is dropped without one, the attempt is inconclusive: it takes no pause, and
/// nothing of the operators' budget.
pub(super) struct Permit {
    breaker: Arc<Breaker>,
    begun: Instant,
    spent: Spent,
    is_reported: bool,
}

/// The part of the limits that an attempt has spent. An attempt that is inconclusive gives it back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spent {
    Nothing,
    /// The one attempt at the end of a pause. It began a new pause.
    Pause,
    /// One of the operators' attempts.
    OfOperators,
}

/// Returns the rejection for a caller whose attempt was denied. Its reason says when the next try is.
fn not_tried(rejection: &Rejection, wait: Duration) -> Rejection {
    let next = OffsetDateTime::now_utc() + wait;
    let next = next.replace_millisecond(0).unwrap_or(next).format(&Rfc3339).unwrap_or_default();
    let reason = format!("{}; not tried now, the next try is at {next}", rejection.reason);
    Rejection { reason, ..rejection.clone() }
}

impl OpenBreaker {
    /// Allows one attempt, and returns what it takes; or denies it. Begins a new pause if the pause is over.
    fn allow(&mut self, reason: ProbeReason, pause: Duration, now: Instant) -> Option<Spent> {
        if now >= self.next_probe {
            self.next_probe = now + pause;
            return Some(Spent::Pause);
        }
        match reason {
            ProbeReason::Scheduled => None,
            ProbeReason::Operator => self.take_from_budget(pause, now),
            ProbeReason::CurrentRejected => Some(Spent::Nothing),
        }
    }

    fn take_from_budget(&mut self, pause: Duration, now: Instant) -> Option<Spent> {
        let pauses = (now - self.budget_at).as_secs_f64() / pause.as_secs_f64();
        self.add_to_budget(pauses);
        self.budget_at = now;
        if self.operator_budget < 1.0 {
            return None;
        }
        self.operator_budget -= 1.0;
        Some(Spent::OfOperators)
    }

    fn add_to_budget(&mut self, attempts: f64) {
        self.operator_budget = OPERATOR_BUDGET.min(self.operator_budget + attempts);
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { open: Mutex::default(), pause: Mutex::new(Duration::from_secs(15)) }
    }
}

impl Breaker {
    /// Allows or denies one attempt to use the version at the other side.
    ///
    /// - If the version is not rejected, every attempt is allowed.
    /// - If it is rejected and its pause is over, this attempt is allowed. Because a new pause begins, at most one caller
    ///   per pause gets this attempt.
    /// - During the pause, [`ProbeReason`] says who may try nevertheless.
    ///
    /// # Errors
    /// The last rejection, if the attempt is denied. Its reason says when the next try is.
    pub(super) fn allow(self: &Arc<Self>, reason: ProbeReason, now: Instant) -> Result<Permit, Rejection> {
        let pause = self.pause();
        let mut spent = Spent::Nothing;
        if let Some(open) = &mut *self.open() {
            let Some(of_limits) = open.allow(reason, pause, now) else {
                return Err(not_tried(&open.rejection, open.next_probe.saturating_duration_since(now)));
            };
            spent = of_limits;
        }
        Ok(Permit { breaker: self.clone(), begun: now, spent, is_reported: false })
    }

    fn open(&self) -> MutexGuard<'_, Option<OpenBreaker>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self) -> Duration {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a rejection, and begins a pause. Returns `true` if the version was not rejected before.
    pub(super) fn reject(&self, rejection: Rejection, now: Instant) -> bool {
        let next_probe = now + self.pause();
        let mut open = self.open();
        if let Some(open) = &mut *open {
            (open.rejection, open.last, open.next_probe) = (rejection, now, next_probe);
            return false;
        }
        *open =
            Some(OpenBreaker { rejection, last: now, next_probe, operator_budget: OPERATOR_BUDGET, budget_at: now });
        true
    }

    /// Returns the last rejection, while the breaker is open.
    pub(super) fn rejection(&self) -> Option<Rejection> {
        Some(self.open().as_ref()?.rejection.clone())
    }

    /// Returns the time until an attempt is allowed for any reason. It is zero if the version is not rejected.
    pub(super) fn time_to_next_probe(&self, now: Instant) -> Duration {
        match &*self.open() {
            Some(open) => open.next_probe.saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }

    /// Returns `true` if the rejection is still kept, although nobody uses the version.
    fn is_remembered(&self, now: Instant) -> bool {
        match &*self.open() {
            Some(open) => now < open.next_probe + REMEMBERED,
            None => false,
        }
    }
}

impl Permit {
    /// Reports that the other side accepted the version. Closes the breaker, unless the version was rejected after this
    /// attempt began: two back ends may disagree.
    pub(super) fn accepted(mut self) {
        self.is_reported = true;
        let mut open = self.breaker.open();
        let is_outdated = open.as_ref().is_some_and(|open| open.last > self.begun);
        if !is_outdated {
            *open = None;
        }
    }

    /// Reports that the other side rejected the version. Begins a pause. Returns `true` if the version was not rejected
    /// before.
    pub(super) fn rejected(mut self, rejection: Rejection, now: Instant) -> bool {
        self.is_reported = true;
        self.breaker.reject(rejection, now)
    }
}

impl Drop for Permit {
    /// Gives back what an inconclusive attempt has spent, so that the next one need not wait for the end of the pause.
    fn drop(&mut self) {
        if self.is_reported {
            return;
        }
        let mut open = self.breaker.open();
        let Some(open) = &mut *open else { return };
        match self.spent {
            // One second, so that a database that does not answer is not asked without a pause.
            Spent::Pause if open.last <= self.begun => {
                open.next_probe = open.next_probe.min(Instant::now() + Duration::from_secs(1));
            }
            Spent::OfOperators => open.add_to_budget(1.0),
            Spent::Pause | Spent::Nothing => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::id::VersionId;

    fn rejection() -> Rejection {
        Rejection {
            credential: "c",
            subject: "s".into(),
            version: VersionId::new("v"),
            reason: "r".into(),
            is_of_token: false,
        }
    }

    const PAUSE: Duration = Duration::from_secs(15);

    fn reject(breaker: &Arc<Breaker>, reason: ProbeReason, now: Instant) {
        breaker.allow(reason, now).expect("it is allowed").rejected(rejection(), now);
    }

    #[test]
    fn a_rejected_version_gets_one_probe_per_pause() {
        let (breaker, mut now) = (Arc::new(Breaker::default()), Instant::now());
        reject(&breaker, ProbeReason::Scheduled, now);
        for _ in 0..4 {
            assert!(breaker.allow(ProbeReason::Scheduled, now + PAUSE - Duration::from_secs(1)).is_err());
            now += PAUSE;
            let probe = breaker.allow(ProbeReason::Scheduled, now).expect("the pause is over");
            assert!(breaker.allow(ProbeReason::Scheduled, now).is_err(), "one probe, and no more");
            assert!(!probe.rejected(rejection(), now));
        }
        now += PAUSE;
        breaker.allow(ProbeReason::Scheduled, now).expect("the pause is over").accepted();
        assert!(breaker.allow(ProbeReason::Scheduled, now).is_ok() && breaker.rejection().is_none());
    }

    #[test]
    fn operators_have_a_budget_that_probes_do_not_use_up() {
        let (breaker, mut now) = (Arc::new(Breaker::default()), Instant::now());
        reject(&breaker, ProbeReason::Scheduled, now);
        for _ in 0..10 {
            now += PAUSE;
            reject(&breaker, ProbeReason::Scheduled, now);
            reject(&breaker, ProbeReason::CurrentRejected, now);
        }
        for _ in 0..2 {
            reject(&breaker, ProbeReason::Operator, now);
        }
        let Err(denied) = breaker.allow(ProbeReason::Operator, now) else { panic!("the budget is used up") };
        assert!(denied.into_fault().problem.contains("not tried now, the next try is at 20"));
        assert!(breaker.allow(ProbeReason::CurrentRejected, now).is_ok());
        now += PAUSE - Duration::from_millis(1);
        assert!(breaker.allow(ProbeReason::Operator, now).is_err());
        breaker.reject(rejection(), now);
        assert!(breaker.allow(ProbeReason::Operator, now + Duration::from_millis(2)).is_ok(), "one more per pause");
    }

    #[test]
    fn an_inconclusive_attempt_takes_no_pause() {
        let (breaker, now) = (Arc::new(Breaker::default()), Instant::now() - 2 * PAUSE);
        reject(&breaker, ProbeReason::Scheduled, now);
        drop(breaker.allow(ProbeReason::Scheduled, now + PAUSE).expect("the pause is over"));
        assert!(breaker.allow(ProbeReason::Scheduled, Instant::now() + Duration::from_secs(2)).is_ok());
    }

    #[test]
    fn an_inconclusive_attempt_takes_nothing_from_the_operators() {
        let (breaker, now) = (Arc::new(Breaker::default()), Instant::now());
        reject(&breaker, ProbeReason::Scheduled, now);
        for _ in 0..10 {
            drop(breaker.allow(ProbeReason::Operator, now).expect("no attempt had an answer"));
        }
        for _ in 0..2 {
            reject(&breaker, ProbeReason::Operator, now);
        }
        assert!(breaker.allow(ProbeReason::Operator, now).is_err(), "no more than there were");
    }

    #[test]
    fn an_attempt_that_began_before_a_rejection_does_not_close_the_breaker() {
        let (breaker, now) = (Arc::new(Breaker::default()), Instant::now());
        let slow = breaker.allow(ProbeReason::Scheduled, now).expect("nothing is rejected");
        reject(&breaker, ProbeReason::Scheduled, now + Duration::from_millis(1));
        slow.accepted();
        assert!(breaker.rejection().is_some(), "two back ends disagree");
    }

    #[test]
    fn a_rejection_is_remembered_while_it_keeps_anybody_from_trying() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        reject(&breakers.of("a", PAUSE, now), ProbeReason::Scheduled, now);
        assert!(breakers.of("a", PAUSE, now).allow(ProbeReason::Scheduled, now).is_err());
        let later = now + Duration::from_secs(11 * 60);
        breakers.of("b", PAUSE, later);
        assert!(breakers.of("a", PAUSE, later).rejection().is_none());
    }
}
