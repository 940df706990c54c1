//! Records of reloads: trigger, outcome, faults.

use crate::{exit::Fault, secrets::credential::Name};
use serde::Serialize;
use std::fmt;
use time::OffsetDateTime;

/// The record of a reload.
#[derive(Clone, Serialize)]
pub(crate) struct ReloadRecord {
    pub(crate) trigger: Trigger,
    pub(crate) outcome: ReloadOutcome,
    /// The number of the last signal that it covers. It covers all signals before that one too.
    pub(crate) signals_covered: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) started: OffsetDateTime,
    pub(crate) duration_ms: u64,
    /// The report of every fault, if the outcome is `kept`.
    pub(crate) error: Option<String>,
    /// 0, or the code of the report in `error`.
    pub(crate) exit_code: u8,
    /// The credentials that stay at the version held, so that a rejected login could be replaced all the same.
    pub(crate) carried_over: Vec<CarriedOver>,
}

/// A credential that stays at the version held, because the new version could not be used or not be fetched in time.
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

/// The trigger of a reload. Two words differ from ours: in `/status`, in the log and in metrics, a login or key that the
/// other side rejects is `refused`. Others rely on these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    /// SIGHUP. The configuration is read again too.
    Signal,
    /// `secrets.refresh_every` has passed.
    Poll,
    /// The database rejects the login in service.
    #[serde(rename = "refused_login")]
    RejectedLogin,
    /// Another service rejects the API key in service.
    #[serde(rename = "refused_key")]
    RejectedKey,
    /// A client brought a signature of a key that is not held.
    UnknownKey,
    /// A reload before it failed for a reason that may pass.
    Retry,
}

/// The outcome of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReloadOutcome {
    /// A new generation is in service.
    Published,
    /// Everything is as held.
    Unchanged,
    /// The reload failed. The generation in service stays.
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
    /// Returns the record of a reload that has just started. Its outcome is `Kept` until the reload succeeds.
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
