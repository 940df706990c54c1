//! Leases: the time for which a manager lets a value be used, and the calls that lengthen or end it.

use super::{credential::Name, source::SourceError};
use crate::{
    caught::caught_future,
    jitter,
    metrics::{Counter, MetricsRegistry},
    moment::{CENTURY, Moment},
};
use futures_util::future::BoxFuture;
use prometheus_client::metrics::family::Family;
use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// The timeout of one call.
const CALL: Duration = Duration::from_secs(5);

/// The part of the time left after which a lease is renewed, with a jitter of 10 %.
const RENEW_AFTER: f64 = 1.0 / 3.0;

/// The part of the time left after which a renewal that failed is tried again.
const RETRY_AFTER: f64 = 0.1;

/// The shortest pause between renewals.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The part of a lease before whose end a successor is due, and the part that is never used for that.
const LAST_PART: f64 = 0.15;
const LAST_THIRD: u32 = 3;

/// The time for fetching and proving a successor, beside `server.drain`.
const TIME_TO_REPLACE: Duration = Duration::from_secs(10);

/// The longest sleep until a lease is due. The wall clock may be set in the meantime, and the pool sees that at once.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// The calls that a manager offers for one lease.
pub trait LeaseCalls: Send + Sync + 'static {
    /// Asks for the original length again. It is one attempt; the framework tries again in time.
    ///
    /// # Errors
    /// A [`SourceError`] if the manager did not answer, or does not let this process renew. The lease goes on.
    fn renew(&self) -> BoxFuture<'_, Result<Renewal, SourceError>>;

    /// Ends the lease, because nobody uses its value any more.
    fn give_back(&self) -> BoxFuture<'_, ()>;
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The value may be used for this time from now. It may be shorter than before.
    For(Duration),
    /// The lease cannot be made longer. It ends as it would have.
    AsBefore,
    /// The manager has ended the lease, or does not know it.
    Ended,
}

/// The lease of a value. The framework renews it after a third of its time, takes up a successor before its end, and gives
/// it back when the last holder of the value lets go.
pub struct SecretLease {
    calls: Arc<dyn LeaseCalls>,
    term: watch::Sender<LeaseTerm>,
    metrics: OnceLock<(LeaseMetrics, Name)>,
    #[expect(dead_code, reason = "dropping it ends the renewals")]
    renewals: AbortOnDropHandle<()>,
}

/// The time that the manager has granted.
#[derive(Clone, Copy)]
struct LeaseTerm {
    end: Moment,
    /// The time at which the manager was asked, and said so.
    confirmed: Moment,
    /// The longest time that it has granted. A lease that comes near to its last end gets less and less.
    longest: Duration,
    /// `true` if the manager has ended it.
    is_over: bool,
}

/// The renewals, by credential and outcome.
#[derive(Clone)]
pub(crate) struct LeaseMetrics(Family<[(&'static str, &'static str); 2], Counter>);

impl LeaseMetrics {
    /// Registers the metrics. Call it once per process.
    pub(crate) fn register(metrics: &MetricsRegistry) -> Self {
        let renewals = Family::default();
        let help = "Renewals of the leases of a credential, by outcome";
        metrics.register("vestibule_lease_renewals", help, renewals.clone());
        Self(renewals)
    }
}

impl LeaseTerm {
    fn starting(asked: Moment, granted: Duration) -> Self {
        let longest = granted.min(CENTURY);
        Self { end: asked.plus(longest), confirmed: asked, longest, is_over: false }
    }

    /// Takes the answer to a renewal. An answer that was overtaken by another one counts no more.
    fn take(&mut self, asked: Moment, renewal: Renewal) {
        if self.is_over || asked.is_before(self.confirmed) {
            return;
        }
        match renewal {
            Renewal::For(time) => {
                *self = Self { longest: self.longest.max(time).min(CENTURY), ..Self::starting(asked, time) }
            }
            Renewal::AsBefore => self.confirmed = asked,
            Renewal::Ended => *self = Self { end: asked, confirmed: asked, is_over: true, ..*self },
        }
    }
}

impl SecretLease {
    /// Makes a lease that ends in this time, if it is not renewed. Count from the moment at which the manager was asked.
    /// Runs inside a Tokio runtime.
    pub fn new(left: Duration, calls: Arc<impl LeaseCalls>) -> Arc<Self> {
        Arc::new_cyclic(|lease: &Weak<Self>| Self {
            calls,
            term: watch::Sender::new(LeaseTerm::starting(Moment::now(), left)),
            metrics: OnceLock::new(),
            renewals: AbortOnDropHandle::new(tokio::spawn(renew_in_time(lease.clone(), left.min(CENTURY)))),
        })
    }

    /// Returns its end. A renewal moves it.
    pub(crate) fn end(&self) -> Moment {
        self.term.borrow().end
    }

    /// Returns the time at which the manager last said when it ends.
    pub(crate) fn confirmed(&self) -> Moment {
        self.term.borrow().confirmed
    }

    /// Counts its renewals as those of this credential.
    pub(crate) fn count_in(&self, metrics: &LeaseMetrics, name: Name) {
        for outcome in OUTCOMES {
            drop(metrics.0.get_or_create(&[("name", name), ("outcome", outcome)]));
        }
        // It may be counted already: a candidate of an earlier load.
        let _ = self.metrics.set((metrics.clone(), name));
    }

    /// Returns `true` if the value must not be used any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.end().left().is_zero()
    }

    /// Returns the time before its end from which on a successor must be taken up. `drain` is `server.drain`.
    pub(crate) fn margin(&self, drain: Duration) -> Duration {
        let longest = self.term.borrow().longest;
        longest.mul_f64(LAST_PART).max(drain + TIME_TO_REPLACE).min(longest / LAST_THIRD)
    }

    fn time_to_due(&self, drain: Duration) -> Duration {
        self.end().left().saturating_sub(self.margin(drain))
    }

    pub(crate) fn is_due(&self, drain: Duration) -> bool {
        self.time_to_due(drain).is_zero()
    }

    /// Waits until a successor is due.
    pub(crate) async fn until_due(&self, drain: Duration) {
        let mut term = self.term.subscribe();
        loop {
            term.mark_unchanged();
            let pause = self.time_to_due(drain);
            if pause.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep(pause.min(MAX_SLEEP)) => (),
                _ = term.changed() => (),
            }
        }
    }

    /// Renews it, and so asks the manager whether the lease is still there. A panic of the call counts as no answer:
    /// the calls may be of a service's own, and whoever renews must go on.
    pub(crate) async fn renew(&self) -> Result<Renewal, SourceError> {
        let asked = Moment::now();
        let call = caught_future(async { self.calls.renew().await });
        let renewal = match timeout(CALL, call).await {
            Ok(Some(renewal)) => renewal,
            Ok(None) => Err(SourceError::Unavailable("the call that renews the lease panicked: this is a bug".into())),
            Err(_) => Err(SourceError::Unanswered("no answer in time".into())),
        };
        if let Some((LeaseMetrics(renewals), name)) = self.metrics.get() {
            renewals.get_or_create(&[("name", *name), ("outcome", outcome(&renewal))]).inc();
        }
        if let Ok(renewal) = renewal {
            self.term.send_modify(|term| term.take(asked, renewal));
        }
        renewal
    }

    /// Returns the name of its credential, for the log.
    fn name(&self) -> Option<Name> {
        self.metrics.get().map(|(_, name)| *name)
    }
}

const OUTCOMES: [&str; 4] = ["renewed", "as_before", "ended", "failed"];

fn outcome(renewal: &Result<Renewal, SourceError>) -> &'static str {
    let number = match renewal {
        Ok(Renewal::For(_)) => 0,
        Ok(Renewal::AsBefore) => 1,
        Ok(Renewal::Ended) => 2,
        Err(_) => 3,
    };
    OUTCOMES[number]
}

/// Renews a lease in time, until nobody holds it or the manager has ended it. One that has ended by a clock is asked for too:
/// somebody may have set the clock.
async fn renew_in_time(lease: Weak<SecretLease>, granted: Duration) {
    let mut pause = granted.mul_f64(RENEW_AFTER);
    let mut is_logged = false;
    loop {
        sleep(pause.mul_f64(jitter::factor(0.1)).max(SHORTEST_PAUSE)).await;
        let Some(lease) = lease.upgrade() else { return };
        let renewed = lease.renew().await;
        let left = lease.end().left();
        match renewed {
            Ok(Renewal::Ended) => {
                let credential = lease.name();
                tracing::warn!(credential, "a lease was ended at the manager before its time; a successor is fetched");
                return;
            }
            Ok(Renewal::For(_) | Renewal::AsBefore) => {
                is_logged = false;
                pause = left.mul_f64(RENEW_AFTER);
            }
            Err(error) => {
                if !is_logged {
                    let credential = lease.name();
                    tracing::warn!(credential, %error, "a lease could not be renewed; trying again until it ends");
                    is_logged = true;
                }
                pause = left.mul_f64(RETRY_AFTER);
            }
        }
    }
}

impl Drop for SecretLease {
    fn drop(&mut self) {
        let is_over = self.term.borrow().is_over;
        if let (false, Ok(runtime)) = (is_over, Handle::try_current()) {
            let calls = self.calls.clone();
            runtime.spawn(async move { calls.give_back().await });
        }
    }
}

impl fmt::Debug for SecretLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretLease").field("end", &self.end().at()).finish_non_exhaustive()
    }
}

/// Calls that change nothing.
#[cfg(test)]
pub(crate) struct NoCalls;

#[cfg(test)]
impl LeaseCalls for NoCalls {
    fn renew(&self) -> BoxFuture<'_, Result<Renewal, SourceError>> {
        Box::pin(async { Ok(Renewal::AsBefore) })
    }

    fn give_back(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::time::{Instant, advance};

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_overtaken_does_not_bring_an_ended_lease_back() {
        let asked_first = Moment::now();
        let mut term = LeaseTerm::starting(asked_first, seconds(900));
        advance(seconds(1)).await;
        term.take(Moment::now(), Renewal::Ended);
        term.take(asked_first, Renewal::For(seconds(900)));
        assert!(term.is_over && term.end.left().is_zero());
    }

    const DRAIN: Duration = Duration::from_secs(25);

    /// Calls that answer as scripted, and note what was asked.
    #[derive(Default)]
    struct Scripted {
        answers: Mutex<Vec<Result<Renewal, SourceError>>>,
        renewed_at: watch::Sender<Vec<Instant>>,
        given_back: watch::Sender<bool>,
    }

    impl LeaseCalls for Scripted {
        fn renew(&self) -> BoxFuture<'_, Result<Renewal, SourceError>> {
            self.renewed_at.send_modify(|times| times.push(Instant::now()));
            let answer = self.answers.lock().unwrap().pop().unwrap_or(Ok(Renewal::AsBefore));
            Box::pin(async { answer })
        }

        fn give_back(&self) -> BoxFuture<'_, ()> {
            self.given_back.send_replace(true);
            Box::pin(async {})
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_is_due_in_time_and_never_in_the_first_two_thirds() {
        for (granted, due) in [(3600, 3060), (300, 255), (60, 40), (12, 8)] {
            let lease = SecretLease::new(seconds(granted), Arc::new(Scripted::default()));
            let due_at = Instant::now() + seconds(due);
            lease.until_due(seconds(25)).await;
            assert!(due_at.elapsed() < seconds(1) && Instant::now() >= due_at - seconds(1), "{granted} s");
            assert!(lease.is_due(DRAIN) && !lease.has_ended());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_after_a_third_and_again_soon_if_that_fails() {
        let calls = Arc::new(Scripted::default());
        let answers = [Err(SourceError::Unavailable("as scripted".into())), Ok(Renewal::For(seconds(900)))];
        calls.answers.lock().unwrap().extend(answers);
        let start = Instant::now();
        let lease = SecretLease::new(seconds(900), calls.clone());
        for (renewals, at_least, at_most) in [(1, 269, 331), (2, 530, 670), (3, 570, 730)] {
            calls.renewed_at.subscribe().wait_for(|times| times.len() >= renewals).await.unwrap();
            let elapsed = start.elapsed();
            assert!(elapsed >= seconds(at_least) && elapsed <= seconds(at_most), "{renewals}: {elapsed:?}");
        }
        assert!(!lease.is_due(DRAIN));
    }

    /// Calls that panic, as those of a service's own may.
    struct Panics;

    impl LeaseCalls for Panics {
        fn renew(&self) -> BoxFuture<'_, Result<Renewal, SourceError>> {
            panic!("as scripted")
        }

        fn give_back(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_panics_is_a_renewal_that_failed() {
        let lease = SecretLease::new(seconds(900), Arc::new(Panics));
        let Err(error) = lease.renew().await else { panic!("it was not renewed") };
        assert!(error.to_string().contains("panicked") && error.is_transient(), "{error}");
        assert!(!lease.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_the_manager_ended_is_due_at_once_and_not_given_back() {
        let calls = Arc::new(Scripted::default());
        calls.answers.lock().unwrap().push(Ok(Renewal::Ended));
        let lease = SecretLease::new(seconds(900), calls.clone());
        assert!(timeout(seconds(1), lease.until_due(DRAIN)).await.is_err());
        let (_, renewed) = tokio::join!(lease.until_due(DRAIN), async { lease.renew().await });
        renewed.unwrap();
        assert!(lease.has_ended());
        drop(lease);
        tokio::task::yield_now().await;
        assert!(!*calls.given_back.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_due_and_is_renewed_is_due_again_before_its_next_end() {
        let calls = Arc::new(Scripted::default());
        let lease = SecretLease::new(seconds(900), calls.clone());
        for _ in 0..3 {
            lease.until_due(DRAIN).await;
            assert!(lease.is_due(DRAIN) && !lease.has_ended());
            calls.answers.lock().unwrap().push(Ok(Renewal::For(seconds(900))));
            lease.renew().await.unwrap();
            assert!(!lease.is_due(DRAIN));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_given_back_when_its_last_holder_lets_go() {
        let calls = Arc::new(Scripted::default());
        let lease = SecretLease::new(seconds(900), calls.clone());
        let other = lease.clone();
        drop(lease);
        tokio::task::yield_now().await;
        assert!(!*calls.given_back.borrow());
        drop(other);
        calls.given_back.subscribe().wait_for(|given_back| *given_back).await.unwrap();
    }
}
