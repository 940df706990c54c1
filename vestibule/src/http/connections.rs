//! The open connections of a listener.

use super::{
    connection::{ConnectionRules, WatchedConnection},
    end_reason::EndReason,
    exchange::ExchangeRules,
    policy::{ListenerLimits, ListenerPolicy},
};
use crate::{
    config::settings::connections::ConnectionsConfig,
    metrics::{Counter, Gauge, MetricsRegistry},
};
use prometheus_client::metrics::family::Family;
use slab::Slab;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The time between two rounds of the watchdog.
const ROUND: Duration = Duration::from_secs(1);

/// The same while places are short.
const SHORT_ROUND: Duration = Duration::from_millis(100);

/// The time after which the log says again that there are too many connections.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// The metrics of the connections of all listeners.
#[derive(Clone, Default)]
pub(crate) struct ConnectionMetrics {
    open: Family<[(&'static str, &'static str); 1], Gauge>,
    limit: Family<[(&'static str, &'static str); 1], Gauge>,
    pub(super) ended: Family<[(&'static str, &'static str); 2], Counter>,
    failed_handshakes: Family<[(&'static str, &'static str); 1], Counter>,
}

impl ConnectionMetrics {
    pub(crate) fn register(registry: &MetricsRegistry) -> Self {
        let metrics = Self::default();
        registry.register("vestibule_connections_open", "Open connections", metrics.open.clone());
        registry.register(
            "vestibule_connections_limit",
            "Connections that may be open; more wait to be accepted",
            metrics.limit.clone(),
        );
        registry.register("vestibule_connections_ended", "Connections that ended, by reason", metrics.ended.clone());
        let help = "Connections that ended before their handshake was complete";
        registry.register("vestibule_tls_handshakes_failed", help, metrics.failed_handshakes.clone());
        metrics
    }
}

/// The open connections of one listener.
pub(super) struct Connections {
    listener: &'static str,
    open: Mutex<Slab<Arc<WatchedConnection>>>,
    /// `true` if new connections get one response each. The lock of `open` orders its change.
    is_lingering: AtomicBool,
    /// Wakes when a connection has ended.
    left: Notify,
    /// Wakes the watchdog when there is no place for another connection.
    full: Notify,
    metrics: ConnectionMetrics,
    open_gauge: Gauge,
    limit_gauge: Gauge,
}

/// The place of one connection.
pub(super) struct Place {
    connections: Arc<Connections>,
    pub(super) connection: Arc<WatchedConnection>,
    key: usize,
}

impl Connections {
    pub(super) fn new(listener: &'static str, metrics: &ConnectionMetrics) -> Self {
        for reason in EndReason::ALL {
            drop(metrics.ended.get_or_create(&[("listener", listener), ("reason", reason.label())]));
        }
        drop(metrics.failed_handshakes.get_or_create(&[("listener", listener)]));
        Self {
            listener,
            open: Mutex::default(),
            is_lingering: AtomicBool::new(false),
            left: Notify::new(),
            full: Notify::new(),
            metrics: metrics.clone(),
            open_gauge: metrics.open.get_or_create_owned(&[("listener", listener)]),
            limit_gauge: metrics.limit.get_or_create_owned(&[("listener", listener)]),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Waits until there is a place for another connection. Returns the limits of that moment. Logs that there is none,
    /// unless it did so at `logged`, a short time ago.
    pub(super) async fn room(&self, policy: &impl ListenerPolicy, logged: &mut Option<Instant>) -> ListenerLimits {
        loop {
            let left = self.left.notified();
            let limits = policy.limits();
            if self.count() < limits.max_open {
                return limits;
            }
            if logged.is_none_or(|at| at.elapsed() >= LOG_AGAIN) {
                tracing::warn!(
                    listener = self.listener,
                    connections.limit = limits.max_open,
                    "no more connections are accepted until one ends; idle ones are asked to"
                );
                *logged = Some(Instant::now());
            }
            self.full.notify_one();
            left.await;
        }
    }

    /// Gives a connection a place.
    pub(super) fn admit(self: &Arc<Self>, limits: &ConnectionsConfig) -> (Arc<WatchedConnection>, Place) {
        let connection = Arc::new(WatchedConnection::new(limits));
        let key = self.lock().insert(connection.clone());
        if self.is_lingering.load(Ordering::Relaxed) {
            connection.retire(EndReason::Stopping);
        }
        self.open_gauge.inc();
        (connection.clone(), Place { connections: self.clone(), connection, key })
    }

    /// Judges all connections, round after round.
    pub(super) async fn watch(&self, policy: &impl ListenerPolicy) {
        let mut is_short = false;
        loop {
            let pause = if is_short { SHORT_ROUND } else { ROUND };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.full.notified() => {}
            }
            let limits = self.limits(policy);
            let is_short_of_connections = self.count() >= limits.max_open;
            is_short = is_short_of_connections || policy.is_short_of_places();
            let exchange = ExchangeRules { now: Instant::now(), response_timeout: limits.response_timeout, is_short };
            let authority = policy.client_authority();
            let rules =
                ConnectionRules { limits: limits.connections, exchange, is_short: is_short_of_connections, authority };
            self.for_each(|connection| connection.judge(&rules));
        }
    }

    /// Lets all connections end with their next response, also those that are still to come.
    pub(super) fn linger(&self) {
        self.is_lingering.store(true, Ordering::Relaxed);
        self.for_each(|connection| connection.retire(EndReason::Stopping));
    }

    /// Asks all connections to end, and cuts those that have not after `grace`.
    pub(super) async fn close(&self, grace: Duration) {
        self.for_each(|connection| connection.close(EndReason::Stopping));
        if tokio::time::timeout(grace, self.none_open()).await.is_err() {
            self.for_each(|connection| connection.cut(EndReason::Stopping));
        }
    }

    /// Returns the limits of this moment, and shows the number of connections.
    pub(super) fn limits(&self, policy: &impl ListenerPolicy) -> ListenerLimits {
        let limits = policy.limits();
        self.limit_gauge.set(i64::try_from(limits.max_open).unwrap_or(i64::MAX));
        limits
    }

    pub(super) async fn none_open(&self) {
        loop {
            let left = self.left.notified();
            if self.count() == 0 {
                return;
            }
            left.await;
        }
    }

    fn for_each(&self, act: impl Fn(&WatchedConnection)) {
        for (_, connection) in self.lock().iter() {
            act(connection);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<WatchedConnection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Connections { listener, metrics, open_gauge, left, .. } = &*self.connections;
        self.connections.lock().remove(self.key);
        open_gauge.dec();
        let reason = self.connection.end_reason();
        metrics.ended.get_or_create(&[("listener", listener), ("reason", reason.label())]).inc();
        if matches!(reason, EndReason::HandshakeFailed | EndReason::HandshakeTimeout) {
            metrics.failed_handshakes.get_or_create(&[("listener", listener)]).inc();
        }
        left.notify_waiters();
    }
}
