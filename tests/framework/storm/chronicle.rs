//! The chronicle of a storm: its faults and their times, and the failures that they explain.

use super::{ACQUIRE_TIMEOUT, MAX_CONNECTIONS, REQUEST_TIMEOUT};
use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The longest idle time after which the pool hands a connection out unchecked, and some time for the request.
const UNCHECKED: Duration = Duration::from_millis(700);

/// The kinds of faults, by the failures that they explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// A change that no client notices.
    Unnoticed,
    /// The signing key was replaced.
    SigningKey,
    /// A signing key was revoked.
    RevokedKey,
    /// All open connections were closed, reset, or ended by the server.
    EndedConnections,
    /// All open connections became a black hole.
    SwallowedConnections,
    /// New connections are reset.
    RefusedLogins,
    /// New connections are a black hole.
    SwallowedLogins,
    /// The database and the manager have different passwords.
    DifferentPasswords,
    /// The manager does not answer.
    AbsentManager,
    /// A table is locked.
    LockedTable,
}

impl FaultKind {
    /// Returns the time after a fault in which the service may still suffer from it.
    fn recovery(self) -> Duration {
        Duration::from_secs(match self {
            // A log-in that hangs takes 5 s, and a pause follows.
            Self::SwallowedLogins => 7,
            // So does a request to the manager.
            Self::AbsentManager => 7,
            // Requests on dead connections keep them busy.
            Self::SwallowedConnections => 12,
            // The pause before the next reload is about as long as the fault was.
            Self::DifferentPasswords => 4,
            // The pool pauses between log-ins.
            Self::RefusedLogins | Self::LockedTable => 2,
            _ => 0,
        })
    }
}

/// A request that failed.
pub(super) struct Failure {
    pub(super) from: Instant,
    pub(super) to: Instant,
    pub(super) request: String,
    pub(super) answer: FailedAnswer,
}

/// The answer to a request that failed.
pub(super) enum FailedAnswer {
    /// 503: there is no connection to the database, or it ended.
    Unavailable,
    /// 503, or 408 if its body was not read yet: the request took too long.
    TooLong,
    /// 400 to a cursor that was got then.
    RejectedCursor(Instant),
    /// Anything else. No fault explains it.
    Other(String),
}

impl fmt::Display for FailedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the database is not available",
            Self::TooLong => "the request took too long",
            Self::RejectedCursor(_) => "the cursor is rejected",
            Self::Other(answer) => answer,
        })
    }
}

/// The faults of a storm.
pub(super) struct Chronicle {
    start: Instant,
    faults: Mutex<Vec<FaultWindow>>,
}

struct FaultWindow {
    kind: FaultKind,
    what: String,
    from: Instant,
    /// `None` while the fault lasts.
    to: Option<Instant>,
}

impl FaultWindow {
    /// Returns `true` if this fault ended the connection that a request used.
    fn has_ended_connection_of(&self, failure: &Failure) -> bool {
        let end = self.to.unwrap_or(self.from);
        self.kind == FaultKind::EndedConnections
            && matches!(failure.answer, FailedAnswer::Unavailable)
            && failure.from <= end + UNCHECKED
            && failure.to >= self.from
            && failure.to <= end + 2 * UNCHECKED
    }
}

/// A fault that lasts until this is dropped.
pub(super) struct LastingFault<'a>(&'a Chronicle, usize);

impl Drop for LastingFault<'_> {
    fn drop(&mut self) {
        self.0.faults()[self.1].to = Some(Instant::now());
    }
}

impl Chronicle {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), faults: Mutex::default() }
    }

    /// Records that a fault begins.
    #[must_use]
    pub(super) fn begin(&self, kind: FaultKind, what: impl Into<String>) -> LastingFault<'_> {
        let mut faults = self.faults();
        faults.push(FaultWindow { kind, what: what.into(), from: Instant::now(), to: None });
        LastingFault(self, faults.len() - 1)
    }

    /// Records a fault of one moment.
    pub(super) fn note(&self, kind: FaultKind, what: impl Into<String>) {
        drop(self.begin(kind, what));
    }

    fn faults(&self) -> MutexGuard<'_, Vec<FaultWindow>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a description of each failure that no fault explains.
    pub(super) fn unexplained(&self, failures: &[Failure]) -> Vec<String> {
        let mut unexplained = Vec::new();
        for failure in failures {
            if !self.explains(failure) {
                unexplained.push(self.describe(failure));
            }
        }
        unexplained.extend(self.too_many_failures(failures));
        unexplained
    }

    fn explains(&self, failure: &Failure) -> bool {
        self.explains_wait(failure) || self.faults().iter().any(|fault| fault.has_ended_connection_of(failure))
    }

    /// Returns `true` if faults explain the failure, other than the end of the connection that the request used.
    fn explains_wait(&self, failure: &Failure) -> bool {
        let &Failure { from, to, .. } = failure;
        match failure.answer {
            FailedAnswer::Unavailable => self.has_no_connection(to),
            FailedAnswer::TooLong => {
                self.count(FaultKind::SwallowedConnections, from - UNCHECKED, to) > 0 || self.has_no_connection(to)
            }
            FailedAnswer::RejectedCursor(got) => {
                self.count(FaultKind::SigningKey, got, to) > 1
                    || self.count(FaultKind::RevokedKey, got - UNCHECKED, to) > 0
            }
            FailedAnswer::Other(_) => false,
        }
    }

    /// Returns `true` if the open connections were lost, and there was no moment until `to` at which the pool could open
    /// others, for as long as a request waits.
    fn has_no_connection(&self, to: Instant) -> bool {
        let waited_from = to - ACQUIRE_TIMEOUT;
        let lost = |kind| self.count(kind, waited_from - REQUEST_TIMEOUT, waited_from + UNCHECKED);
        if lost(FaultKind::EndedConnections) + lost(FaultKind::SwallowedConnections) == 0 {
            return false;
        }
        let mut obstacles = Vec::new();
        for fault in self.faults().iter() {
            let until = fault.to.unwrap_or(to) + fault.kind.recovery();
            obstacles.push((fault.kind, fault.from, until));
        }
        let overlaps = |(_, from, until), kind| {
            obstacles.iter().any(|&(other, begin, end)| other == kind && begin <= until && end >= from)
        };
        let mut covered = waited_from + UNCHECKED;
        // The faults are in the order in which they began.
        for &obstacle in &obstacles {
            let (kind, from, until) = obstacle;
            let is_obstacle = match kind {
                FaultKind::RefusedLogins
                | FaultKind::SwallowedLogins
                | FaultKind::DifferentPasswords
                | FaultKind::LockedTable => true,
                FaultKind::AbsentManager => overlaps(obstacle, FaultKind::DifferentPasswords),
                // Connections that were busy and are dead keep their places.
                FaultKind::SwallowedConnections => overlaps(obstacle, FaultKind::LockedTable),
                _ => false,
            };
            if is_obstacle && from <= covered {
                covered = covered.max(until);
            }
        }
        covered >= to
    }

    /// Returns the number of faults of a kind that there were between two times.
    fn count(&self, kind: FaultKind, from: Instant, to: Instant) -> usize {
        let is_between =
            |fault: &&FaultWindow| fault.kind == kind && fault.from <= to && fault.to.is_none_or(|end| end >= from);
        self.faults().iter().filter(is_between).count()
    }

    /// Returns a description of each end of all connections with which more requests failed than there were connections.
    fn too_many_failures(&self, failures: &[Failure]) -> Vec<String> {
        let mut left: Vec<_> = failures.iter().filter(|failure| !self.explains_wait(failure)).collect();
        let mut too_many = Vec::new();
        for fault in self.faults().iter().filter(|fault| fault.kind == FaultKind::EndedConnections) {
            let before = left.len();
            left.retain(|failure| !fault.has_ended_connection_of(failure));
            let count = before - left.len();
            if count > MAX_CONNECTIONS {
                too_many.push(format!("{count} requests failed at {:.1} s: {}", self.at(fault.from), fault.what));
            }
        }
        too_many
    }

    fn at(&self, time: Instant) -> f64 {
        time.saturating_duration_since(self.start).as_secs_f64()
    }

    /// Describes a failure, with the faults around it.
    fn describe(&self, failure: &Failure) -> String {
        let Failure { from, to, request, answer } = failure;
        let mut text = format!("{request} from {:.2} s to {:.2} s: {answer}", self.at(*from), self.at(*to));
        for fault in self.faults().iter() {
            let end = fault.to.unwrap_or(*to);
            if fault.from <= *to && end + 2 * ACQUIRE_TIMEOUT >= *from {
                text += &format!("\n    {:.2} s to {:.2} s: {}", self.at(fault.from), self.at(end), fault.what);
            }
        }
        text
    }
}
