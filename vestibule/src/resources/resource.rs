//! A resource: something that is built from a credential.

use super::{
    breaker::ProbeReason, circuit_breaker::CircuitBreaker, connection_counter::ConnectionCounter, rejection::Rejection,
};
use std::any::Any;
use tokio::time::Instant;

/// A handle to something that is built from a credential: a pool, a client, a session. Cheap to clone.
///
/// The service holds it and calls it; the framework carries it over, retires it and closes it.
/// [`Build::resource`](crate::Build::resource) registers it. Every method has a default.
///
/// ```
/// use std::sync::Arc;
/// use vestibule::resources::{CircuitBreaker, Resource};
///
/// /// A session at a mail relay.
/// #[derive(Clone)]
/// struct Session(Arc<Inner>);
///
/// struct Inner {
///     breaker: CircuitBreaker,
/// }
///
/// impl Resource for Session {
///     fn circuit_breaker(&self) -> Option<&CircuitBreaker> {
///         Some(&self.0.breaker)
///     }
/// }
/// ```
pub trait Resource: Any + Clone + Send + Sync {
    /// Runs when the generation that built this resource comes into service. From now on, the resource may act on its
    /// own.
    fn publish(&self) {}

    /// Returns the circuit breaker, if this resource has one. The framework tells it when this resource comes into service
    /// and when it is retired.
    fn circuit_breaker(&self) -> Option<&CircuitBreaker> {
        None
    }

    /// Returns the rejection, while the other side rejects the credential. Each reload then looks for another version. The
    /// default is the rejection of the circuit breaker.
    fn rejection(&self) -> Option<Rejection> {
        self.circuit_breaker()?.rejection()
    }

    /// Returns `true` while the other side rejects the credential, as `/metrics` shows it. The default is `true` if the circuit
    /// breaker or [`rejection`](Self::rejection) has a rejection.
    fn is_rejected(&self) -> bool {
        self.circuit_breaker().is_some_and(|breaker| breaker.rejection().is_some()) || self.rejection().is_some()
    }

    /// Tries a rejected credential again, if the circuit breaker allows that for `reason`. Runs at the beginning of each
    /// reload, and ends by `deadline`: after 5 s at most.
    fn probe(&self, reason: ProbeReason, deadline: Instant) -> impl Future<Output = ()> + Send {
        let _ = (reason, deadline);
        async {}
    }

    /// Runs when a generation that did not carry this resource over comes into service. `successor` is the resource that
    /// it has from the same credential, if there is one.
    ///
    /// Let go of everything that is not in use. Requests may still hold this resource.
    fn retire(&self, successor: Option<&Self>) {
        let _ = successor;
    }

    /// Returns the count of the connections that this resource has opened, if it has any. `/metrics` shows them. After the
    /// resource was replaced, they keep its generation among those that drain.
    fn connections(&self) -> Option<ConnectionCounter> {
        None
    }

    /// Closes everything, because the process ends.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}
