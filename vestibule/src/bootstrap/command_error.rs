//! The error of a command.

use crate::{config::settings::LogFormat, exit::Report};

/// A command that failed, with the format in which its report is logged.
pub(crate) struct CommandError {
    pub(crate) report: Report,
    pub(crate) format: LogFormat,
}
