//! Counts of open connections, which `/status`, `/metrics` and `audit` show.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The count of the connections that a resource has opened with one version of its credential. Clones share one count.
///
/// A replaced resource drains: while one of its connections is open, `/status` names the credential, and `audit` does not
/// say that the rotation is complete.
///
/// ```
/// use vestibule::resources::{ConnectionCounter, ConnectionGuard};
///
/// struct Session {
///     socket: std::net::TcpStream,
///     /// Counts the session until it is dropped.
///     guard: ConnectionGuard,
/// }
///
/// fn session(socket: std::net::TcpStream, sessions: &ConnectionCounter) -> Session {
///     Session { socket, guard: sessions.open() }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ConnectionCounter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    /// The open connections that wait for use.
    idle: AtomicUsize,
}

/// The guard of one open connection. The connection counts until the guard is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    counter: ConnectionCounter,
    is_idle: bool,
}

/// The numbers of a [`ConnectionCounter`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenConnections {
    pub(crate) idle: usize,
    pub(crate) used: usize,
}

impl ConnectionCounter {
    /// Counts a connection that was opened. It counts as used.
    pub fn open(&self) -> ConnectionGuard {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard { counter: self.clone(), is_idle: false }
    }

    /// Returns the numbers at this moment.
    pub(crate) fn count(&self) -> OpenConnections {
        let open = self.0.open.load(Ordering::Relaxed);
        let idle = self.0.idle.load(Ordering::Relaxed).min(open);
        OpenConnections { idle, used: open - idle }
    }

    /// Returns `true` if both count the same connections.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl ConnectionGuard {
    /// Records that the connection waits for use from now on, or that it is in use.
    pub fn set_idle(&mut self, is_idle: bool) {
        if is_idle == self.is_idle {
            return;
        }
        self.is_idle = is_idle;
        if is_idle {
            self.counter.0.idle.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counter.0.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.set_idle(false);
        self.counter.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_until_its_guard_is_dropped() {
        let counter = ConnectionCounter::default();
        let mut first = counter.open();
        let second = counter.open();
        first.set_idle(true);
        first.set_idle(true);
        assert_eq!(counter.count(), OpenConnections { idle: 1, used: 1 });
        drop(second);
        assert_eq!(counter.count(), OpenConnections { idle: 1, used: 0 });
        first.set_idle(false);
        assert_eq!(counter.count(), OpenConnections { idle: 0, used: 1 });
        first.set_idle(true);
        drop(first);
        assert_eq!(counter.count(), OpenConnections::default());
    }
}
