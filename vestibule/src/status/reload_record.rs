//! A reload that ended: its trigger, its outcome, its faults.

use crate::{exit::Fault, secrets::credential::Name};
use serde::Serialize;
use std::fmt;
use time::OffsetDateTime;

/// A trip that ended.
#[derive(Clone, Serialize)]
pub(crate) struct ReloadRecord {
    pub(crate) trigger: Trigger,
    pub(crate) outcome: ReloadOutcome,
    /// All signals up to this one are covered.
    pub(crate) signals_covered: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) started: OffsetDateTime,
    pub(crate) duration_ms: u64,
    /// Every fault, when the outcome is `kept`.
    pub(crate) error: Option<String>,
    /// The code with which a start would have ended.
    pub(crate) exit_code: u8,
    /// What could not be used, and was left as it was, so that a refused login could be replaced.
    pub(crate) carried_over: Vec<CarriedOver>,
}

/// A credential that stays at the version held, because it could not be used, or not be had in time.
#[derive(Clone, Serialize)]
pub(crate) struct CarriedOver {
    pub(crate) credential: Name,
    pub(crate) problem: String,
}

impl From<(Name, Fault)> for CarriedOver {
    fn from((credential, fault): (Name, Fault)) -> Self {
        Self { credential, problem: fault.problem }
    }
}

/// What set off a trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    /// SIGHUP: the configuration is read again too.
    Signal,
    /// `secrets.refresh_every` passed.
    Poll,
    /// The database refused the login in service.
    #[serde(rename = "refused_login")]
    RejectedLogin,
    /// Another service refused the API key in service.
    #[serde(rename = "refused_key")]
    RejectedKey,
    /// A client brought what a key has signed that is not held.
    UnknownKey,
    /// A trip before it was kept for a reason that may pass.
    Retry,
}

/// How a trip ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReloadOutcome {
    /// A new generation is in service.
    Published,
    /// Everything was as held.
    Unchanged,
    /// The trip failed; the generation in service stays.
    Kept,
}

impl Trigger {
    pub(super) const ALL: [Self; 6] =
        [Self::Signal, Self::Poll, Self::RejectedLogin, Self::RejectedKey, Self::UnknownKey, Self::Retry];
}

impl ReloadOutcome {
    pub(super) const ALL: [Self; 3] = [Self::Published, Self::Unchanged, Self::Kept];
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for ReloadOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl ReloadRecord {
    /// A trip that has not ended well, yet.
    pub(crate) fn new(trigger: Trigger, signals_covered: u64, started: OffsetDateTime) -> Self {
        Self {
            trigger,
            outcome: ReloadOutcome::Kept,
            signals_covered,
            started,
            duration_ms: 0,
            error: None,
            exit_code: 0,
            carried_over: Vec::new(),
        }
    }
}
