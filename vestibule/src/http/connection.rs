//! One connection, as the watchdog sees it, and the orders that it gets.

use super::{
    end_reason::EndReason,
    exchange::{Exchange, ExchangeRules, SHORT_PATIENCE},
    upgraded::{Half, UpgradedConnection},
};
use crate::{config::settings::connections::ConnectionsConfig, jitter};
use axum::http::Version;
use std::{
    any::Any,
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    task::Context,
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

/// The time in which a connection ends that was asked to and has no request.
pub(super) const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// The authorities of clients of a generation, to compare. Nothing of them is kept alive.
pub(crate) type ClientAuthority = Weak<dyn Any + Send + Sync>;

/// A connection, from its acceptance to its end.
pub(super) struct WatchedConnection {
    opened: Instant,
    /// The time from which on the next request is the last one.
    ages_out: Instant,
    state: Mutex<ConnectionState>,
    ordered: Notify,
    /// `None` while it speaks HTTP.
    upgraded: OnceLock<UpgradedConnection>,
}

struct ConnectionState {
    phase: ConnectionPhase,
    /// The requests whose response has not ended.
    exchanges: Vec<Arc<Exchange>>,
    /// The exchange of HTTP/2 whose task is about to be spawned.
    unspawned: Option<Arc<Exchange>>,
    /// The time since which there has been no request.
    idle_since: Instant,
    /// The authorities by which the client's certificate was verified. `None` if it needed none.
    authority: Option<ClientAuthority>,
    end: Option<EndReason>,
    /// The time from which on a connection that was asked to end is cut.
    cut_at: Option<Instant>,
    order: Option<Order>,
    /// The reason for which the next response is the last one.
    retired: Option<EndReason>,
    is_http2: bool,
    /// `true` from the first request on whose body was not read to its end.
    has_unread_body: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionPhase {
    Handshake,
    /// No request has come.
    New,
    /// It has served a request.
    InUse,
    /// It speaks another protocol now. Its handler ends it, unless its client counts no more.
    Upgraded,
    /// Our side is shut down. The socket ends it.
    ShutDown,
}

/// The bytes that a client may have on the way when our side of its connection is shut down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Those of another protocol. Its handler reads them.
    OfHandler,
    /// The rest of a body that nobody reads.
    OfBody,
    /// None that we know of.
    Unknown,
}

/// An order to the task of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Finish the requests, and take no more.
    Close,
    /// End at once.
    Cut,
}

/// The rules by which the watchdog judges a connection.
pub(super) struct ConnectionRules {
    pub(super) limits: ConnectionsConfig,
    pub(super) exchange: ExchangeRules,
    /// `true` while places for connections are short.
    pub(super) is_short: bool,
    /// The authorities of clients that are in service.
    pub(super) authority: Option<ClientAuthority>,
}

impl WatchedConnection {
    pub(super) fn new(limits: &ConnectionsConfig) -> Self {
        let now = Instant::now();
        Self {
            opened: now,
            ages_out: now + limits.max_age.mul_f64(jitter::factor(0.1)),
            state: Mutex::new(ConnectionState {
                phase: ConnectionPhase::Handshake,
                exchanges: Vec::new(),
                unspawned: None,
                idle_since: now,
                authority: None,
                end: None,
                cut_at: None,
                order: None,
                retired: None,
                is_http2: false,
                has_unread_body: false,
            }),
            ordered: Notify::new(),
            upgraded: OnceLock::new(),
        }
    }

    /// Records that the handshake is done.
    pub(super) fn speaks_http(&self, authority: Option<ClientAuthority>) {
        let mut state = self.lock();
        state.phase = ConnectionPhase::New;
        state.authority = authority;
    }

    /// Records that a request came. A client of HTTP/2 that goes on after it was asked to end, and after the time that it then
    /// has, is cut.
    pub(super) fn begin(&self, version: Version) -> Arc<Exchange> {
        let now = Instant::now();
        let exchange = Arc::new(Exchange::new(now));
        let mut state = self.lock();
        state.phase = ConnectionPhase::InUse;
        state.is_http2 = version == Version::HTTP_2;
        state.exchanges.push(exchange.clone());
        if state.is_http2 {
            state.unspawned = Some(exchange.clone());
            // h2 refuses requests after GOAWAY only once the client has answered its ping.
            if state.is_overdue(now) {
                state.cut_overdue();
                self.tell(&state);
            } else if let (Some(reason), None) = (state.retired, state.end) {
                state.ask_to_close(reason);
                self.tell(&state);
            }
        } else if now >= self.ages_out {
            state.retired.get_or_insert(EndReason::MaxAge);
        }
        exchange
    }

    /// Records the task of the request that came last. hyper spawns it as soon as the service was called.
    pub(super) fn spawned(&self, stream: AbortHandle) {
        let exchange = self.lock().unspawned.take();
        // It also spawns a task for a tunnel, the answer to `CONNECT`.
        if let Some(exchange) = exchange {
            exchange.runs_in(stream);
        }
    }

    /// Records that a response begins. Returns `true` if it must say that the connection ends with it.
    ///
    /// So a client of HTTP/1 knows before it sends another request. HTTP/2 has a frame that says it (GOAWAY).
    pub(super) fn ends_with_response(&self) -> bool {
        let mut state = self.lock();
        match state.retired {
            Some(reason) if !state.is_http2 => {
                state.end.get_or_insert(reason);
                true
            }
            _ => false,
        }
    }

    /// Lets the connection end with the next response. Over HTTP/2, asks it to end at once, or with its first request.
    pub(super) fn retire(&self, reason: EndReason) {
        let mut state = self.lock();
        state.retired.get_or_insert(reason);
        if state.is_http2 {
            state.ask_to_close(reason);
            self.tell(&state);
        }
    }

    /// Records that a response is out, or that its request was given up.
    pub(super) fn finish(&self, exchange: &Arc<Exchange>) {
        exchange.ended();
        let mut state = self.lock();
        if let Some(position) = state.exchanges.iter().position(|other| Arc::ptr_eq(other, exchange)) {
            state.exchanges.swap_remove(position);
        }
        if state.exchanges.is_empty() {
            state.idle_since = Instant::now();
        }
    }

    /// Records that a response was a 101, or made a tunnel: a connection of HTTP/1 speaks another protocol from now on. HTTP/2
    /// has no 101 (RFC 9113, section 8.6), and a tunnel there is a stream, so there it is a response like others.
    pub(super) fn upgraded(&self) {
        let mut state = self.lock();
        if !state.is_http2 {
            state.phase = ConnectionPhase::Upgraded;
            // An earlier response, or the watchdog, may have set another.
            state.end = Some(EndReason::Upgraded);
            self.upgraded.get_or_init(UpgradedConnection::default);
        }
    }

    /// Returns an error if the connection speaks another protocol and was cut. Otherwise the task that reads, or the one that
    /// writes, is woken by a cut.
    pub(super) fn ensure_not_cut(&self, half: Half, cx: &Context<'_>) -> io::Result<()> {
        match self.upgraded.get() {
            Some(upgraded) => upgraded.ensure_not_cut(half, cx),
            None => Ok(()),
        }
    }

    /// Records that the body of a request was dropped before its end.
    pub(super) fn leaves_body_unread(&self) {
        self.lock().has_unread_body = true;
    }

    /// Records that our side is shut down. Returns what the client may still send.
    pub(super) fn shut_down(&self) -> Rest {
        let mut state = self.lock();
        if state.phase == ConnectionPhase::Upgraded {
            return Rest::OfHandler;
        }
        state.phase = ConnectionPhase::ShutDown;
        if state.has_unread_body { Rest::OfBody } else { Rest::Unknown }
    }

    /// Records why the connection ends. The first reason counts.
    pub(super) fn ends_for(&self, reason: EndReason) {
        self.lock().end.get_or_insert(reason);
    }

    pub(super) fn end_reason(&self) -> EndReason {
        self.lock().end.unwrap_or(EndReason::Closed)
    }

    /// Asks the connection to end.
    pub(super) fn close(&self, reason: EndReason) {
        let mut state = self.lock();
        state.ask_to_close(reason);
        self.tell(&state);
    }

    /// Ends the connection at once.
    pub(super) fn cut(&self, reason: EndReason) {
        let mut state = self.lock();
        state.cut(reason);
        self.tell(&state);
    }

    /// Waits for an order. Cancel-safe.
    pub(super) async fn next_order(&self) -> Order {
        loop {
            let order = self.lock().order.take();
            match order {
                Some(order) => return order,
                None => self.ordered.notified().await,
            }
        }
    }

    /// Asks or orders the connection to end, if a limit says so.
    pub(super) fn judge(&self, rules: &ConnectionRules) {
        let mut state = self.lock();
        state.judge(self.opened, self.ages_out, rules);
        if state.order.is_some() {
            self.tell(&state);
        }
    }

    /// Tells whoever serves the connection of its order.
    fn tell(&self, state: &ConnectionState) {
        self.ordered.notify_one();
        if let (Some(Order::Cut), Some(upgraded)) = (state.order, self.upgraded.get()) {
            upgraded.cut();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionState {
    fn judge(&mut self, opened: Instant, ages_out: Instant, rules: &ConnectionRules) {
        let (now, limits) = (rules.exchange.now, &rules.limits);
        let age = now.duration_since(opened);
        let idle = if self.exchanges.is_empty() { now.duration_since(self.idle_since) } else { Duration::ZERO };
        let is_retired = self.retired == Some(EndReason::AuthorityChanged);
        if self.phase == ConnectionPhase::Upgraded && !is_retired {
            // No other limit applies to it.
            if self.is_of_other_authority(rules.authority.as_ref()) {
                self.retire(EndReason::AuthorityChanged, now + rules.exchange.response_timeout);
            }
            return;
        }
        // Requests are finished, also one that was on the way, unless their client counts no more.
        if self.is_overdue(now) && (is_retired || idle >= CLOSING_GRACE) {
            return self.cut_overdue();
        }
        match self.phase {
            ConnectionPhase::Upgraded | ConnectionPhase::ShutDown => return,
            ConnectionPhase::Handshake if age >= limits.handshake_timeout => {
                return self.cut(EndReason::HandshakeTimeout);
            }
            ConnectionPhase::New if age >= limits.handshake_timeout + limits.head_timeout => {
                return self.cut(EndReason::HeadTimeout);
            }
            ConnectionPhase::Handshake | ConnectionPhase::New if rules.is_short && age >= SHORT_PATIENCE => {
                return self.cut(EndReason::Shortage);
            }
            ConnectionPhase::Handshake => return,
            ConnectionPhase::New | ConnectionPhase::InUse => {}
        }
        if let Some(reason) = self.judge_exchanges(rules.exchange) {
            return self.cut(reason);
        }
        if !is_retired && self.is_of_other_authority(rules.authority.as_ref()) {
            return self.retire(EndReason::AuthorityChanged, now + rules.exchange.response_timeout);
        }
        if self.cut_at.is_some() {
            return;
        }
        if idle >= limits.idle_timeout {
            self.close(EndReason::Idle, now + CLOSING_GRACE);
        } else if rules.is_short && idle >= SHORT_PATIENCE {
            self.close(EndReason::Shortage, now + CLOSING_GRACE);
        } else if self.is_http2 && now >= ages_out {
            self.retire(EndReason::MaxAge, now + rules.exchange.response_timeout);
        }
    }

    /// Returns the reason to cut the connection, if its client does not do its part. If the connection has other requests, as
    /// one that a proxy shares among its clients, only the stream of that client is reset.
    fn judge_exchanges(&self, rules: ExchangeRules) -> Option<EndReason> {
        let judged = self.exchanges.iter().map(|exchange| (exchange, exchange.judge(rules)));
        let unfit: Vec<_> = judged.filter_map(|(exchange, reason)| Some((exchange, reason?))).collect();
        let serves_others = self.is_http2 && unfit.len() < self.exchanges.len();
        for (exchange, reason) in unfit {
            if !serves_others || !exchange.reset(reason, rules.now) {
                return Some(reason);
            }
        }
        None
    }

    /// Lets the connection end with its next response, and cuts it at a time anyway.
    fn retire(&mut self, reason: EndReason, cut_at: Instant) {
        self.retired = Some(reason);
        self.cut_at = Some(cut_at);
        if self.is_http2 || self.phase == ConnectionPhase::New {
            self.ask_to_close(reason);
        }
    }

    fn is_of_other_authority(&self, in_service: Option<&ClientAuthority>) -> bool {
        match (&self.authority, in_service) {
            (Some(own), Some(in_service)) => !own.ptr_eq(in_service),
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => false,
        }
    }

    /// Returns `true` if the connection was asked to end, and its time is over.
    fn is_overdue(&self, now: Instant) -> bool {
        self.cut_at.is_some_and(|at| at <= now)
    }

    fn cut_overdue(&mut self) {
        if self.phase == ConnectionPhase::Upgraded {
            // Its handler has not ended it.
            self.end = None;
        }
        self.cut(self.retired.unwrap_or(EndReason::Closed));
    }

    fn ask_to_close(&mut self, reason: EndReason) {
        self.end.get_or_insert(reason);
        self.order.get_or_insert(Order::Close);
    }

    fn close(&mut self, reason: EndReason, cut_at: Instant) {
        self.ask_to_close(reason);
        self.cut_at = Some(cut_at);
    }

    fn cut(&mut self, reason: EndReason) {
        let reason = *self.end.get_or_insert(reason);
        for exchange in &self.exchanges {
            exchange.cut(reason);
        }
        self.order = Some(Order::Cut);
    }
}

#[cfg(test)]
mod tests;
