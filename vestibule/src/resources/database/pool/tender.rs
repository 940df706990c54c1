//! The tender of a pool: it logs in for those who wait, probes a login that does not succeed, and closes what is old.

use super::{CONCURRENT_LOGINS, HANDOVER, Pool, PoolStage, State};
use crate::{
    backoff::Backoff,
    resources::{
        breaker::ProbeReason,
        circuit_breaker::Attempt,
        database::{
            error,
            lease::{Lease, PooledConnection},
            login::PoolLogin,
        },
    },
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// The timeout of one log-in.
pub(in crate::resources::database) const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The first and the longest pause between log-ins while the server does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A login that does not succeed at the moment.
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) reason: String,
    pub(super) next_try: Instant,
    pauses: Backoff,
}

/// Logs in for those who wait, probes a login that does not succeed, and closes what was idle for too long. Ends with the
/// pool.
pub(super) async fn tend(pool: Weak<Pool>, work: Arc<Notify>) {
    let mut logins = FuturesUnordered::new();
    loop {
        let next = {
            let Some(pool) = pool.upgrade() else { return };
            let now = Instant::now();
            while let Some(login) = pool.next_login(now) {
                logins.push(login);
            }
            pool.close_idle(now)
        };
        tokio::select! {
            Some(()) = logins.next() => (),
            () = work.notified() => (),
            () = sleep_until(next) => (),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Pool {
    /// Tries a rejected login again, if the breaker allows it.
    pub(in crate::resources::database) async fn probe(self: &Arc<Self>, login: &Arc<PoolLogin>, reason: ProbeReason) {
        if login.breaker.rejection().is_none() {
            return;
        }
        let Ok(attempt) = login.breaker.allow(reason) else { return };
        let under_way = LoginUnderWay::new(self);
        self.clone().log_in(login.clone(), attempt, self.place(), under_way).await;
    }

    /// Logs in once, and hands the connection to the first who waits.
    async fn log_in(
        self: Arc<Self>,
        login: Arc<PoolLogin>,
        attempt: Attempt,
        mut place: Lease,
        under_way: LoginUnderWay,
    ) {
        let _permit = self.login_permit().await;
        let connected = match timeout(LOGIN_TIMEOUT, login.options.log_in()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let error = match connected {
            Ok(connection) => {
                attempt.accepted();
                drop(under_way);
                self.state().login_succeeded(&login);
                place.connect(connection, login);
                self.work.notify_one();
                return;
            }
            Err(error) => error,
        };
        login.options.log_failure(&error);
        let mut reason = error::reason(&error);
        if error::is_rejected(&error) {
            reason = attempt.rejected(reason).to_string();
        }
        drop(under_way);
        self.state().login_failed(&login, reason);
        drop(place);
        self.work.notify_one();
    }

    /// Returns the next log-in, if one is needed and allowed now.
    fn next_login(self: &Arc<Self>, now: Instant) -> Option<BoxFuture<'static, ()>> {
        let mut state = self.state();
        if !state.needs_login(now) {
            return None;
        }
        // To check a suspect login, one connection more than the maximum is opened, as for a proof.
        if state.places >= state.login.limits.max_connections && !state.is_suspect {
            // A replaced connection gives its place to a new one.
            let Some(replaced) = state.replaced.pop() else {
                state.wanted = 0;
                return None;
            };
            drop(state);
            self.close_later(replaced);
            return None;
        }
        let login = state.login.clone();
        if login.is_over() {
            state.login_failed(&login, "the lease of the login has ended, and there is no other login yet".into());
            return None;
        }
        let attempt = match login.breaker.allow(ProbeReason::Scheduled) {
            Ok(attempt) => attempt,
            Err(rejection) => {
                state.login_failed(&login, rejection.to_string());
                return None;
            }
        };
        state.wanted = state.wanted.saturating_sub(1);
        state.is_suspect = false;
        drop(state);
        let under_way = LoginUnderWay::new(self);
        Some(self.clone().log_in(login, attempt, self.place(), under_way).boxed())
    }

    /// Closes the connections that were idle for too long. Returns the time at which to look again.
    fn close_idle(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let mut old = state.extract_ended(now);
        old.extend(state.idle.extract_if(.., |idle| now >= idle.idle_until()));
        let ends = [state.replaced_until, state.limits_replaced_until].into_iter().filter(|end| now < *end);
        let idle = state.idle.iter().map(PooledConnection::idle_until).min();
        // A connection that comes back idle wakes nobody.
        let in_use = if state.places > 0 { Some(now + state.login.limits.idle_timeout) } else { None };
        // A try that is due and not made waits for a place, or for the end of another log-in. Both wake the tender.
        let probe = match &state.trouble {
            Some(trouble) if trouble.next_try > now => Some(trouble.next_try),
            _ => None,
        };
        drop(state);
        for connection in old {
            self.close_later(connection);
        }
        ends.chain(idle).chain(in_use).chain(probe).min()
    }
}

impl State {
    fn needs_login(&mut self, now: Instant) -> bool {
        self.waiting.retain(|waiting| !waiting.is_closed());
        if self.stage == PoolStage::Closed {
            return false;
        }
        let Some(trouble) = &self.trouble else {
            let needed = self.waiting.len() + self.wanted;
            return self.logins < CONCURRENT_LOGINS && (needed > self.logins || self.is_suspect);
        };
        // One try per pause, also if nobody waits: the next request shall find a connection.
        let is_used = self.stage == PoolStage::Open || !self.waiting.is_empty();
        self.logins == 0 && now >= trouble.next_try && is_used
    }

    fn login_succeeded(&mut self, login: &Arc<PoolLogin>) {
        if Arc::ptr_eq(login, &self.login) {
            if self.trouble.take().is_some() {
                self.is_suspect = false;
            }
            self.limits_replaced_until = self.limits_replaced_until.min(Instant::now() + HANDOVER);
        }
    }

    /// Records that the login did not succeed, or was not tried, and schedules the next try.
    fn login_failed(&mut self, login: &Arc<PoolLogin>, reason: String) {
        self.wanted = 0;
        if !Arc::ptr_eq(login, &self.login) {
            return;
        }
        let now = Instant::now();
        let (since, mut pauses) = match self.trouble.take() {
            Some(trouble) => (trouble.since, trouble.pauses),
            None => (now, Backoff::from_to(FIRST_PAUSE, LONGEST_PAUSE)),
        };
        let to_probe = login.breaker.time_to_next_probe();
        let next_try = if to_probe.is_zero() { pauses.next().unwrap_or(now) } else { now + to_probe };
        self.trouble = Some(Trouble { since, reason, next_try, pauses });
        // The next try needs no place of a connection that still serves.
        self.is_suspect = true;
    }
}

/// A log-in that is under way. It counts until it is dropped, also if the log-in is abandoned.
struct LoginUnderWay(Arc<Pool>);

impl LoginUnderWay {
    fn new(pool: &Arc<Pool>) -> Self {
        pool.state().logins += 1;
        Self(pool.clone())
    }
}

impl Drop for LoginUnderWay {
    fn drop(&mut self) {
        self.0.state().logins -= 1;
        self.0.work.notify_one();
    }
}
