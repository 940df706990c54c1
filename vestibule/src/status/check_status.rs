//! The results of the readiness checks of a service.

use crate::{
    application::{Application, ReadinessCheck},
    moment::Moment,
};
use serde::{Serialize, Serializer};
use std::time::Duration;

/// The age of a result from which on the check counts as failing: it hangs, and blocks its thread. Three rounds pass in
/// this time.
const OVERDUE: Duration = Duration::from_secs(20);

/// The status of one readiness check.
#[derive(Clone)]
pub(crate) struct CheckStatus {
    pub(super) name: &'static str,
    pub(super) is_required: bool,
    last: Option<CheckResult>,
}

/// The last result of a check.
#[derive(Clone)]
struct CheckResult {
    at: Moment,
    /// The first of the results since then that did not pass, or did.
    since: Moment,
    result: Result<(), String>,
}

/// The state of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckState {
    /// It has not ended yet.
    Pending,
    Passing,
    Failing,
    /// It passed, and has not ended again for too long.
    Overdue,
}

impl CheckStatus {
    pub(super) fn new<A: Application>(check: &ReadinessCheck<A>) -> Self {
        Self { name: check.name, is_required: check.is_required, last: None }
    }

    /// Returns the status of the same check in another generation. The last result counts until the next one.
    pub(super) fn in_next_generation<A: Application>(&self, check: &ReadinessCheck<A>) -> Self {
        Self { is_required: check.is_required, ..self.clone() }
    }

    /// Takes a new result. Logs if it is another one than before.
    pub(super) fn take(&mut self, result: Result<(), String>, now: Moment) {
        let state = self.state();
        match &result {
            Ok(()) if state == CheckState::Failing => {
                tracing::info!(check = self.name, "a readiness check passes again");
            }
            Err(error) if state != CheckState::Failing => {
                let required = self.is_required;
                tracing::warn!(check = self.name, required, error, "a readiness check fails; /readyz says so");
            }
            _ => (),
        }
        let since = match &self.last {
            Some(last) if last.result.is_ok() == result.is_ok() => last.since,
            _ => now,
        };
        self.last = Some(CheckResult { at: now, since, result });
    }

    pub(super) fn state(&self) -> CheckState {
        match &self.last {
            None => CheckState::Pending,
            Some(CheckResult { result: Err(_), .. }) => CheckState::Failing,
            Some(last) if last.at.elapsed() > OVERDUE => CheckState::Overdue,
            Some(_) => CheckState::Passing,
        }
    }

    /// Returns the reason for which the service is not ready, if there is one.
    pub(super) fn reason(&self) -> Option<String> {
        let name = self.name;
        match &self.last {
            None => Some(format!("check `{name}` has not ended yet")),
            Some(CheckResult { result: Err(error), .. }) => Some(format!("check `{name}` fails: {error}")),
            Some(last) if self.state() == CheckState::Overdue => {
                Some(format!("check `{name}` has not ended since {}", last.at.at()))
            }
            Some(_) => None,
        }
    }

    /// Returns the time since which the check passes, or does not.
    pub(super) fn since(&self) -> Option<Moment> {
        self.last.as_ref().map(|last| last.since)
    }
}

impl Serialize for CheckStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            name: &'static str,
            required: bool,
            state: CheckState,
            since: Option<Moment>,
            checked: Option<Moment>,
            error: Option<&'a String>,
        }
        let shown = Shown {
            name: self.name,
            required: self.is_required,
            state: self.state(),
            since: self.since(),
            checked: self.last.as_ref().map(|last| last.at),
            error: self.last.as_ref().and_then(|last| last.result.as_ref().err()),
        };
        shown.serialize(serializer)
    }
}
