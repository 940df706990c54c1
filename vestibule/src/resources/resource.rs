//! A resource: something that is built from a credential.

use super::{breaker::ProbeReason, rejection::Rejection};
use std::any::Any;
use tokio::time::Instant;

/// Something built from a credential, held by the service and known to the framework. Cheap to clone: a handle.
pub trait Resource: Any + Clone + Send + Sync {
    /// The generation that made this is in service from now on.
    fn publish(&self) {}

    /// What the other side said, while it refuses the credential. Each trip then looks for another version.
    fn rejection(&self) -> Option<Rejection> {
        None
    }

    /// While the credential is refused: tries it again, if that is not too often.
    fn probe(&self, reason: ProbeReason, deadline: Instant) -> impl Future<Output = ()> + Send {
        let _ = (reason, deadline);
        async {}
    }

    /// Another generation is in service, with a successor unless it has none: let go of what nobody uses. Requests may
    /// still hold this.
    fn retire(&self, successor: Option<&Self>) {
        let _ = successor;
    }

    /// Its connections, if it is a pool: for `/metrics`.
    fn connections(&self) -> Option<Connections> {
        None
    }

    /// The process ends: let go of everything.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The open connections of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Those that wait for use.
    pub idle: usize,
    /// Those in use, or being opened.
    pub used: usize,
}
