//! Requests for a reload: how resources ask the reload actor for one. They belong to the process, and to no generation.

use crate::{
    secrets::{credential::Name, id::VersionId},
    status::ReloadAnswer,
};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

/// The shortest time between two reload requests for unknown keys. Any client can invent the id of a key.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);

/// The shortest time between two reloads of one cause.
const SAME_CAUSE_INTERVAL: Duration = Duration::from_secs(1);

/// The largest number of operators that wait for a reload.
const MAX_OPERATORS: usize = 16;

/// Requests for a reload. Resources make them and the reload actor takes them. Any number of requests that are made
/// before the actor takes them costs one reload.
#[derive(Default)]
pub(crate) struct ReloadRequests {
    rejected_login: Cause,
    newly_rejected: AtomicBool,
    unknown_key: Notify,
    last_unknown_key: Mutex<Option<Instant>>,
    due_lease: Notify,
    rejected_key: Cause,
    rejected_keys: Mutex<RejectedKeys>,
    by_operator: Cause,
    operators: Mutex<Vec<WaitingOperator>>,
    /// The number of times that a version in service came to be in doubt.
    doubts: watch::Sender<u64>,
    reloads: watch::Sender<ReloadCount>,
}

/// An operator who waits for the answer of a reload.
pub(crate) type WaitingOperator = oneshot::Sender<ReloadAnswer>;

/// A cause of reloads. A login that two back ends disagree about would otherwise cause one reload after the other.
#[derive(Default)]
struct Cause {
    requested: Notify,
    last_taken: Mutex<Option<Instant>>,
}

impl Cause {
    fn request(&self) {
        self.requested.notify_one();
    }

    /// Waits for a request, and until [`SAME_CAUSE_INTERVAL`] has passed since the last one was taken. Cancel-safe.
    async fn requested(&self) {
        let last = *self.last_taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last {
            tokio::time::sleep_until(last + SAME_CAUSE_INTERVAL).await;
        }
        self.requested.notified().await;
        *self.last_taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// The keys that other services reject.
#[derive(Default)]
pub(crate) struct RejectedKeys {
    pub(crate) versions: BTreeMap<Name, VersionId>,
    /// `true` if no reload was requested for one of these versions before.
    pub(crate) newly: bool,
}

/// A request that the reload actor takes.
pub(crate) enum ReloadRequest {
    /// Operators ask for a reload over the admin listener, and wait.
    ByOperators(Vec<WaitingOperator>),
    /// The other side rejects a credential in service.
    RejectedLogin {
        /// `true` if it accepted that credential until now.
        newly: bool,
    },
    /// Other services reject these versions of API keys.
    RejectedKeys(RejectedKeys),
    /// A client brought a signature of a key that is not held.
    UnknownKey,
    /// The lease of a credential in service ends soon.
    DueLease,
}

/// The number of reloads so far. A reload that has started and not ended is under way.
#[derive(Default)]
struct ReloadCount {
    started: u64,
    ended: u64,
    /// There will be no more reloads.
    closed: bool,
}

impl ReloadRequests {
    /// Requests a reload because the other side rejects a credential of the generation in service. `newly`: it accepted
    /// the credential until now.
    pub(crate) fn request_for_rejected_login(&self, newly: bool) {
        self.newly_rejected.fetch_or(newly, Ordering::AcqRel);
        self.rejected_login.request();
        self.count_doubt(newly);
    }

    /// Returns a future that ends when the next version in service comes to be in doubt after this call: it is rejected for
    /// the first time, or its lease is due.
    pub(crate) fn next_doubt(&self) -> impl Future<Output = ()> + use<> {
        let mut doubts = self.doubts.subscribe();
        async move {
            if doubts.changed().await.is_err() {
                // There will be none.
                std::future::pending::<()>().await;
            }
        }
    }

    fn count_doubt(&self, is_new: bool) {
        if is_new {
            self.doubts.send_modify(|count| *count += 1);
        }
    }

    /// Requests a reload because a client brought a signature of a key that is not held: another replica may hold that
    /// key already. Does nothing if such a request was made less than 30 s ago.
    pub(crate) fn request_for_unknown_key(&self) {
        let mut last = self.last_unknown_key.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() >= UNKNOWN_KEY_INTERVAL) {
            *last = Some(Instant::now());
            self.unknown_key.notify_one();
        }
    }

    /// Requests a reload because the lease of a credential in service ends soon.
    pub(crate) fn request_for_due_lease(&self) {
        self.due_lease.notify_one();
        self.count_doubt(true);
    }

    /// Requests a reload because another service rejects this version of an API key. `newly`: no reload was requested for that
    /// version before. Returns the number of the first reload that starts after this call.
    pub(crate) fn request_for_rejected_key(&self, credential: Name, version: VersionId, newly: bool) -> u64 {
        let number = self.reloads.borrow().started + 1;
        let mut keys = self.rejected_keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.versions.insert(credential, version);
        keys.newly |= newly;
        self.rejected_key.request();
        self.count_doubt(newly);
        number
    }

    /// Requests a reload for an operator, who may wait for the answer of the first reload that starts after this call.
    /// `None` if too many operators wait already.
    pub(crate) fn request_by_operator(&self) -> Option<oneshot::Receiver<ReloadAnswer>> {
        let mut operators = self.operators.lock().unwrap_or_else(PoisonError::into_inner);
        operators.retain(|operator| !operator.is_closed());
        if operators.len() >= MAX_OPERATORS {
            return None;
        }
        let (operator, answer) = oneshot::channel();
        if !self.reloads.borrow().closed {
            operators.push(operator);
            self.by_operator.request();
        }
        Some(answer)
    }

    /// Takes the next request. Cancel-safe.
    pub(crate) async fn next(&self) -> ReloadRequest {
        tokio::select! {
            biased;
            () = self.by_operator.requested() => {
                let mut operators = self.operators.lock().unwrap_or_else(PoisonError::into_inner);
                ReloadRequest::ByOperators(std::mem::take(&mut operators))
            }
            () = self.rejected_login.requested() => {
                ReloadRequest::RejectedLogin { newly: self.newly_rejected.swap(false, Ordering::AcqRel) }
            }
            () = self.rejected_key.requested() => {
                let mut keys = self.rejected_keys.lock().unwrap_or_else(PoisonError::into_inner);
                ReloadRequest::RejectedKeys(std::mem::take(&mut keys))
            }
            () = self.due_lease.notified() => ReloadRequest::DueLease,
            () = self.unknown_key.notified() => ReloadRequest::UnknownKey,
        }
    }

    /// Records that a reload starts.
    pub(crate) fn reload_started(&self) {
        self.reloads.send_modify(|count| count.started += 1);
    }

    /// Records that the reload that is under way has ended.
    pub(crate) fn reload_ended(&self) {
        self.reloads.send_modify(|count| count.ended = count.started);
    }

    /// Ends all waiting: there will be no more reloads.
    pub(crate) fn close(&self) {
        self.reloads.send_modify(|count| count.closed = true);
        self.operators.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits for the end of the reload of this number.
    pub(crate) async fn end_of_reload(&self, number: u64) {
        let _ = self.reloads.subscribe().wait_for(|count| count.closed || count.ended >= number).await;
    }
}
