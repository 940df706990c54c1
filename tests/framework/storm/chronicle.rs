//! The chronicle of a storm: its faults and their times, and the failures that they explain.

use super::{MAX_CONNECTIONS, REQUEST_TIMEOUT};
use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The longest idle time after which the pool hands a connection out unchecked, and some time for the request.
const UNCHECKED: Duration = Duration::from_secs(1);

/// The time after several faults in which requests may still fail: log-ins that hang (5 s), and pauses before retries.
const RECOVERY: Duration = Duration::from_secs(10);

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

/// A request that failed.
pub(super) struct Failure {
    pub(super) from: Instant,
    pub(super) to: Instant,
    pub(super) request: String,
    pub(super) answer: FailedAnswer,
}

/// The answer to a request that failed.
pub(super) enum FailedAnswer {
    /// 503 with `Retry-After`: there is no connection to the database, or it ended.
    Unavailable,
    /// 503: the request took too long.
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
        self.explains_wait(failure)
            || matches!(failure.answer, FailedAnswer::Unavailable)
                && self.count(FaultKind::EndedConnections, failure, UNCHECKED) > 0
    }

    /// Returns `true` if faults explain the failure, other than the end of the connection that the request used.
    fn explains_wait(&self, failure: &Failure) -> bool {
        match failure.answer {
            FailedAnswer::Unavailable | FailedAnswer::TooLong => {
                self.count(FaultKind::SwallowedConnections, failure, REQUEST_TIMEOUT + UNCHECKED) > 0
                    || self.has_no_connection(failure)
            }
            FailedAnswer::RejectedCursor(got) => {
                let since =
                    Failure { from: got, to: failure.to, request: String::new(), answer: FailedAnswer::TooLong };
                self.count(FaultKind::SigningKey, &since, Duration::ZERO) > 1
                    || self.count(FaultKind::RevokedKey, &since, UNCHECKED) > 0
            }
            FailedAnswer::Other(_) => false,
        }
    }

    /// Returns `true` if the open connections were lost, and no new one could be opened for as long as a request waits.
    /// One fault that keeps the pool from a log-in is shorter than that, unless the log-ins themselves hang.
    fn has_no_connection(&self, failure: &Failure) -> bool {
        let near = |kind| self.count(kind, failure, RECOVERY);
        let lost = near(FaultKind::EndedConnections) + near(FaultKind::SwallowedConnections);
        let obstacles = near(FaultKind::RefusedLogins)
            + near(FaultKind::DifferentPasswords)
            + near(FaultKind::AbsentManager)
            + near(FaultKind::LockedTable);
        lost > 0 && (near(FaultKind::SwallowedLogins) > 0 || obstacles > 1)
    }

    /// Returns the number of faults of a kind during a request, or less than `after` before it.
    fn count(&self, kind: FaultKind, failure: &Failure, after: Duration) -> usize {
        let mut count = 0;
        for fault in self.faults().iter().filter(|fault| fault.kind == kind) {
            let is_over = fault.to.is_some_and(|to| to + after < failure.from);
            count += usize::from(!is_over && fault.from <= failure.to);
        }
        count
    }

    /// Returns a description of each end of all connections with which more requests failed than there were connections.
    fn too_many_failures(&self, failures: &[Failure]) -> Vec<String> {
        let mut left: Vec<_> = failures.iter().filter(|failure| !self.explains_wait(failure)).collect();
        let mut too_many = Vec::new();
        for fault in self.faults().iter().filter(|fault| fault.kind == FaultKind::EndedConnections) {
            let before = left.len();
            left.retain(|failure| failure.to < fault.from || failure.from > fault.from + UNCHECKED);
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
            if fault.from <= *to && end + 2 * RECOVERY >= *from {
                text += &format!("\n    {:.2} s to {:.2} s: {}", self.at(fault.from), self.at(end), fault.what);
            }
        }
        text
    }
}
