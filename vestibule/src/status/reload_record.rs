//! Records of reloads: trigger, outcome, faults.

use crate::{exit::Exit, loader::Unrefreshed, moment::Moment, secrets::credential::Name};
use serde::Serialize;
use std::fmt;

/// The record of a reload.
#[derive(Clone, Serialize)]
pub(crate) struct ReloadRecord {
    pub(crate) trigger: Trigger,
    pub(crate) outcome: ReloadOutcome,
    /// The number of the last signal that it covers. It covers all signals before that one too.
    pub(crate) signals_covered: u64,
    pub(crate) started: Moment,
    pub(crate) duration_ms: u64,
    /// The report of every fault, if the outcome is `kept`.
    pub(crate) error: Option<String>,
    /// 0, or the code of the report in `error`, or the code of a credential in `carried_over` that must be replaced.
    pub(crate) exit_code: u8,
    /// The subject and the code of each fault. The text of a fault also has times, so it is no use to compare reports.
    #[serde(skip)]
    pub(crate) faults: Vec<(String, Exit)>,
    /// The credentials that stay at the version held although something is wrong with them.
    pub(crate) carried_over: Vec<CarriedOver>,
}

/// A credential that stays at the version held: the new version could not be used or not be fetched in time, or the held
/// one is rejected and there is no other.
#[derive(Clone, Serialize)]
pub(crate) struct CarriedOver {
    pub(crate) credential: Name,
    pub(crate) problem: String,
}

impl From<Unrefreshed> for CarriedOver {
    fn from(Unrefreshed { name, fault, .. }: Unrefreshed) -> Self {
        Self { credential: name, problem: fault.problem }
    }
}

/// The trigger of a reload. Two words differ from ours: in `/status`, in the log and in metrics, a login or key that the
/// other side rejects is `refused`. Others rely on these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    /// SIGHUP. The configuration is read again too.
    Signal,
    /// `POST /reload` on the admin listener, as `reload --fleet` sends it. The configuration is read again too.
    Fleet,
    /// `secrets.refresh_every` has passed.
    Poll,
    /// The other side rejects the login in service: a database, or that of a kind of a service's own.
    #[serde(rename = "refused_login")]
    RejectedLogin,
    /// Another service rejects the API key in service.
    #[serde(rename = "refused_key")]
    RejectedKey,
    /// A client brought a signature of a key that is not held.
    UnknownKey,
    /// The lease of a credential in service ends soon.
    Lease,
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
    pub(super) const ALL: [Self; 8] = [
        Self::Signal,
        Self::Fleet,
        Self::Poll,
        Self::RejectedLogin,
        Self::RejectedKey,
        Self::UnknownKey,
        Self::Lease,
        Self::Retry,
    ];
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
    pub(crate) fn new(trigger: Trigger, signals_covered: u64, started: Moment) -> Self {
        Self {
            trigger,
            outcome: ReloadOutcome::Kept,
            signals_covered,
            started,
            duration_ms: 0,
            error: None,
            exit_code: 0,
            faults: Vec::new(),
            carried_over: Vec::new(),
        }
    }
}
