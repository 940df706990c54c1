//! The error of a load.

use super::{doubts::Unrefreshed, retry_class::RetryClass};
use crate::{
    config::{ConfigError, layers::file::Unread},
    exit::{Exit, Fault, Phase, Report},
    resources::build_error::BuildError,
};

/// A load that failed.
#[derive(Clone)]
pub(crate) struct LoadError {
    pub(crate) report: Report,
    pub(crate) retry: RetryClass,
    /// `true` if nobody has tried again yet, and another load may succeed soon.
    pub(super) may_pass_soon: bool,
}

impl From<Report> for LoadError {
    fn from(report: Report) -> Self {
        let retry = RetryClass::of(report.exit());
        Self { report, retry, may_pass_soon: false }
    }
}

impl From<ConfigError> for LoadError {
    fn from(error: ConfigError) -> Self {
        let retry = match error.unread {
            Some(Unread::Unreadable) => RetryClass::Unreadable,
            Some(Unread::NotToml) => RetryClass::HalfWritten,
            None => RetryClass::Permanent,
        };
        Self { report: error.report, retry, may_pass_soon: false }
    }
}

impl From<BuildError> for LoadError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Rejected(_) => Self {
                report: Report::of(Phase::Build, error.into_fault()),
                retry: RetryClass::Rejected,
                may_pass_soon: false,
            },
            BuildError::Fault(fault) => Report::of(Phase::Build, fault).into(),
        }
    }
}

impl LoadError {
    /// Makes the error of a configuration whose files did not answer in time.
    pub(crate) fn of_silent_files() -> Self {
        let remedy = "look at the volume that they are on; the service reads them again by itself";
        ConfigError::of_silent_files("the configuration".into(), remedy).into()
    }

    /// Makes the error of a load that was given up, because a credential in service must be replaced now.
    pub(super) fn of_overtaken() -> Self {
        let problem = "it was given up: a credential in service was rejected meanwhile, or its lease is due";
        let remedy = "nothing; the next reload replaces that credential, and tries again what this one waited for";
        let fault = Fault::new(Exit::Unavailable, "this reload", problem, remedy);
        Report::of(Phase::Secrets, fault).into()
    }

    /// Makes the error of a load that brings nothing which is worth publishing. There is one fault at least.
    pub(super) fn of_unrefreshed(phase: Phase, unrefreshed: Vec<Unrefreshed>) -> Self {
        let retry = Unrefreshed::retry_of(&unrefreshed);
        let faults = unrefreshed.into_iter().map(|stays| stays.fault).collect();
        let retry = retry.unwrap_or(RetryClass::Permanent);
        Self { report: Report { phase, faults }, retry, may_pass_soon: false }
    }

    pub(super) fn with_unrefreshed(mut self, others: Vec<Unrefreshed>) -> Self {
        self.report.faults.extend(others.into_iter().map(|stays| stays.fault));
        self
    }
}
