//! One request and its response, as the watchdog sees them: who waits for whom, and how fast it goes.

use super::end_reason::EndReason;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, task::AbortHandle, time::Instant};

/// The patience with a client while places are short.
pub(super) const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// The time in which a stream of HTTP/2 is gone that was reset.
const RESET_GRACE: Duration = Duration::from_secs(1);

/// The bytes per second that a client must send or take while places are short, on average.
const SHORT_RATE: f64 = 16.0 * 1024.0;

/// A request and its response.
pub(crate) struct Exchange {
    /// The time at which the request came.
    pub(super) started: Instant,
    progress: Mutex<Progress>,
}

struct Progress {
    stage: ExchangeStage,
    /// The start of the stage.
    since: Instant,
    /// The bytes that came in or were handed out in this stage.
    bytes: u64,
    /// The time since which we wait for the client. `None` while it waits for us.
    waiting_since: Option<Instant>,
    /// The time for which we waited for the client in this stage, before that.
    waited: Duration,
    /// The reason for which the watchdog ended the connection, or reset the stream.
    cut_for: Option<EndReason>,
    /// The task of its stream, over HTTP/2.
    stream: Option<AbortHandle>,
    /// The time at which the watchdog reset the stream.
    reset_at: Option<Instant>,
    /// The place among the requests in flight, if it has one.
    place: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ExchangeStage {
    /// The response has not started.
    Request,
    /// The response has started.
    Response,
    /// A response that may last.
    LongLived,
}

/// The rules by which the watchdog judges an exchange.
#[derive(Clone, Copy)]
pub(super) struct ExchangeRules {
    pub(super) now: Instant,
    pub(super) response_timeout: Duration,
    /// `true` while places for requests or connections are short.
    pub(super) is_short: bool,
}

impl Exchange {
    pub(super) fn new(now: Instant) -> Self {
        let stage = ExchangeStage::Request;
        let progress = Progress {
            stage,
            since: now,
            bytes: 0,
            waiting_since: None,
            waited: Duration::ZERO,
            cut_for: None,
            stream: None,
            reset_at: None,
            place: None,
        };
        Self { started: now, progress: Mutex::new(progress) }
    }

    /// Records that we wait for the request's body.
    pub(super) fn waits_for_body(&self) {
        let mut progress = self.lock();
        if progress.stage == ExchangeStage::Request {
            progress.waiting_since.get_or_insert_with(Instant::now);
        }
    }

    /// Records that some of the request's body came.
    pub(super) fn body_came(&self, bytes: usize) {
        let mut progress = self.lock();
        if progress.stage == ExchangeStage::Request {
            progress.bytes += bytes as u64;
            progress.stop_waiting();
        }
    }

    /// Records that nobody reads the rest of the request's body.
    pub(super) fn body_given_up(&self) {
        self.body_came(0);
    }

    /// Records that the response starts. We wait until the client has made room for its body.
    pub(super) fn responds(&self, is_long_lived: bool) {
        let now = Instant::now();
        let mut progress = self.lock();
        progress.stage = if is_long_lived { ExchangeStage::LongLived } else { ExchangeStage::Response };
        progress.since = now;
        progress.bytes = 0;
        progress.waiting_since = Some(now);
        progress.waited = Duration::ZERO;
    }

    /// Records the task that sends the response over HTTP/2. Its end resets the stream.
    pub(super) fn runs_in(&self, stream: AbortHandle) {
        self.lock().stream = Some(stream);
    }

    /// Keeps a place until the exchange ends.
    pub(super) fn hold(&self, place: OwnedSemaphorePermit) {
        self.lock().place = Some(place);
    }

    /// Gives the place back, and forgets the task: others may hold the request for longer.
    pub(super) fn ended(&self) {
        let mut progress = self.lock();
        progress.place = None;
        progress.stream = None;
    }

    /// Gives the place back.
    pub(super) fn give_back(&self) {
        self.lock().place = None;
    }

    /// Records that a piece of the response was handed out. We wait until the client has taken enough to make room for
    /// another.
    pub(super) fn handed_out(&self, bytes: usize) {
        let mut progress = self.lock();
        progress.bytes += bytes as u64;
        progress.waiting_since = Some(Instant::now());
    }

    /// Records that a piece of the response went to the socket. If we wait for the client, we do so anew.
    pub(super) fn went_out(&self) {
        let mut progress = self.lock();
        if let Some(since) = progress.waiting_since {
            let now = Instant::now();
            progress.waited += now - since;
            progress.waiting_since = Some(now);
        }
    }

    /// Records that there is room for another piece of the response.
    pub(super) fn asked_for_more(&self) {
        let mut progress = self.lock();
        if progress.bytes > 0 {
            progress.stop_waiting();
        } else {
            // Most responses are one piece: that costs no look at the clock.
            progress.waiting_since = None;
        }
    }

    /// Records that the watchdog ends the connection.
    pub(super) fn cut(&self, reason: EndReason) {
        self.lock().cut_for.get_or_insert(reason);
    }

    /// Resets the stream. Returns `false` if it is still there a second later. Then its task has ended, and h2 has the rest of
    /// the response, or nothing can be written to the socket: only the end of the connection frees what it holds.
    pub(super) fn reset(&self, reason: EndReason, now: Instant) -> bool {
        let mut progress = self.lock();
        progress.cut_for.get_or_insert(reason);
        if let Some(stream) = &progress.stream {
            stream.abort();
        }
        now.duration_since(*progress.reset_at.get_or_insert(now)) < RESET_GRACE
    }

    /// Returns the reason for which the watchdog ended the connection or reset the stream, if it did.
    pub(super) fn cut_for(&self) -> Option<EndReason> {
        self.lock().cut_for
    }

    /// Returns the reason to end the exchange, if there is one.
    pub(super) fn judge(&self, rules: ExchangeRules) -> Option<EndReason> {
        let ExchangeRules { now, response_timeout, is_short } = rules;
        let progress = self.lock();
        if progress.cut_for.is_some() {
            return progress.cut_for;
        }
        match progress.stage {
            ExchangeStage::Response if now.duration_since(progress.since) >= response_timeout => {
                return Some(EndReason::ResponseTimeout);
            }
            // `server.request_timeout` ends it.
            ExchangeStage::Request if !is_short => return None,
            _ => {}
        }
        let waiting_since = progress.waiting_since?;
        let patience = match progress.stage {
            _ if is_short => SHORT_PATIENCE,
            ExchangeStage::LongLived => response_timeout,
            ExchangeStage::Request | ExchangeStage::Response => response_timeout / 2,
        };
        let waits = now.duration_since(waiting_since);
        let is_stalled = waits >= patience;
        let is_slow =
            is_short && progress.stage != ExchangeStage::LongLived && progress.is_slow(progress.waited + waits);
        if is_stalled || is_slow { Some(EndReason::Stalled) } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// Records that we do not wait for the client.
    fn stop_waiting(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Returns `true` if the client is slower than [`SHORT_RATE`] in this stage. The time in which it waited for us does not
    /// count.
    fn is_slow(&self, waited: Duration) -> bool {
        waited >= SHORT_PATIENCE && (self.bytes as f64) < SHORT_RATE * waited.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn verdict(exchange: &Exchange, is_short: bool) -> Option<EndReason> {
        exchange.judge(ExchangeRules { now: Instant::now(), response_timeout: TIMEOUT, is_short })
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_has_until_its_timeout_however_fast_it_goes() {
        let exchange = Exchange::new(Instant::now());
        exchange.responds(false);
        exchange.asked_for_more();
        for _ in 0..59 {
            tokio::time::advance(Duration::from_secs(1)).await;
            exchange.handed_out(1 << 20);
            assert_eq!(verdict(&exchange, true), None);
            exchange.asked_for_more();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(verdict(&exchange, false), Some(EndReason::ResponseTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_has_half_of_it_and_a_second_while_places_are_short() {
        let exchange = Exchange::new(Instant::now());
        exchange.responds(false);
        exchange.handed_out(1 << 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((verdict(&exchange, false), verdict(&exchange, true)), (None, Some(EndReason::Stalled)));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(verdict(&exchange, false), Some(EndReason::Stalled));
        // A handler that produces slowly is not the client's fault.
        exchange.asked_for_more();
        assert_eq!((verdict(&exchange, false), verdict(&exchange, true)), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickling_body_is_ended_early_only_while_places_are_short() {
        let exchange = Exchange::new(Instant::now());
        for _ in 0..4 {
            exchange.waits_for_body();
            tokio::time::advance(Duration::from_millis(500)).await;
            exchange.body_came(1);
        }
        assert_eq!(verdict(&exchange, true), None, "we do not wait for the client");
        exchange.waits_for_body();
        assert_eq!((verdict(&exchange, false), verdict(&exchange, true)), (None, Some(EndReason::Stalled)));
        exchange.body_came(1 << 20);
        exchange.waits_for_body();
        assert_eq!(verdict(&exchange, true), None, "it was fast on average");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_does_not_answer_for_the_time_in_which_it_waited_for_us() {
        let exchange = Exchange::new(Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        exchange.waits_for_body();
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(verdict(&exchange, true), None, "the handler asked for the body late");
        exchange.body_came(20 * 1024);
        tokio::time::advance(Duration::from_secs(5)).await;
        exchange.waits_for_body();
        tokio::time::advance(Duration::from_millis(900)).await;
        assert_eq!(verdict(&exchange, true), None, "between two pieces too");
        tokio::time::advance(Duration::from_millis(450)).await;
        assert_eq!(verdict(&exchange, true), Some(EndReason::Stalled));

        let exchange = Exchange::new(Instant::now());
        exchange.responds(false);
        exchange.asked_for_more();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(5)).await;
            exchange.handed_out(1024);
            tokio::time::advance(Duration::from_millis(20)).await;
            assert_eq!(verdict(&exchange, true), None, "the handler produces slowly");
            exchange.went_out();
            exchange.asked_for_more();
        }
        for _ in 0..3 {
            exchange.handed_out(1024);
            tokio::time::advance(Duration::from_millis(500)).await;
            exchange.went_out();
            exchange.asked_for_more();
        }
        exchange.handed_out(1024);
        assert_eq!(verdict(&exchange, true), Some(EndReason::Stalled), "the client takes it slowly");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_body_that_was_given_up() {
        let exchange = Exchange::new(Instant::now());
        exchange.waits_for_body();
        exchange.body_given_up();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(verdict(&exchange, true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_lived_response_ends_only_if_nobody_takes_it() {
        let exchange = Exchange::new(Instant::now());
        exchange.responds(true);
        exchange.asked_for_more();
        tokio::time::advance(TIMEOUT * 10).await;
        assert_eq!(verdict(&exchange, true), None);
        exchange.handed_out(10);
        tokio::time::advance(TIMEOUT).await;
        assert_eq!(verdict(&exchange, false), Some(EndReason::Stalled));
    }
}
