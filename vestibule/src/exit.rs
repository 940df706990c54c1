//! The documented exit codes, and the report that names every fault.

use crate::secrets::shape::is_invisible;
use std::fmt;

/// An exit code, after BSD's `sysexits.h`. Each fault has one. If the faults of a report have several, the process ends
/// with the one that comes first in the order of precedence.
///
/// A restart can mend only [`Unavailable`](Exit::Unavailable) and [`Deadline`](Exit::Deadline), so a supervisor
/// restarts the process only after these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// 64: the command line is wrong.
    Usage = 64,
    /// 65: a credential is malformed or empty, or the issuer of tokens has no key that can be used.
    Malformed = 65,
    /// 66: a credential does not exist.
    Missing = 66,
    /// 69: the secrets manager, the database or the issuer of tokens is unavailable, the schema is behind, an audit found a
    /// rotation that is not complete, or a command could not write its output.
    Unavailable = 69,
    /// 70: a bug in the service or the framework.
    Bug = 70,
    /// 71: a listen address cannot be bound.
    Bind = 71,
    /// 75: something did not answer before the deadline. It is 69 if the manager was unavailable before.
    Deadline = 75,
    /// 77: the manager denies access, or the database rejects the login.
    Denied = 77,
    /// 78: the configuration is wrong.
    Config = 78,
}

impl Exit {
    /// The order of precedence. A restart can mend the last two, so every other code comes before them.
    const PRECEDENCE: [Self; 9] = [
        Self::Usage,
        Self::Config,
        Self::Bug,
        Self::Bind,
        Self::Denied,
        Self::Missing,
        Self::Malformed,
        Self::Unavailable,
        Self::Deadline,
    ];

    /// Returns the exit of this code, if there is one.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::PRECEDENCE.into_iter().find(|exit| *exit as u8 == code)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// One mistake or failure: its place, the problem and the remedy. It contains names and ids, never a secret's value.
///
/// ```
/// use vestibule::exit::{Exit, Fault};
///
/// let fault = Fault {
///     exit: Exit::Config,
///     subject: "config/default.toml:3".into(),
///     problem: "server.listen is not an address".into(),
///     remedy: "give an address and a port, such as 0.0.0.0:8080".into(),
/// };
/// assert_eq!(fault.exit as u8, 78);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The exit code of the process if this is its only fault.
    pub exit: Exit,
    /// The place: a credential with its id, a file with its line, an environment variable.
    pub subject: String,
    /// The problem: what is wrong.
    pub problem: String,
    /// The remedy: what to do about it.
    pub remedy: String,
}

impl Fault {
    pub(crate) fn new(
        exit: Exit,
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { exit, subject: subject.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// The phase of a load or a command in which faults occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the configuration.
    Config,
    /// Fetching and validating credentials.
    Secrets,
    /// Building the service and proving its credentials.
    Build,
    /// Binding the listeners.
    Bind,
    /// Serving.
    Serve,
    /// A command other than `serve`.
    Command,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "reading the configuration",
            Self::Secrets => "fetching the credentials",
            Self::Build => "building the service",
            Self::Bind => "binding the listeners",
            Self::Serve => "serving",
            Self::Command => "running the command",
        })
    }
}

/// All faults of the phase that failed. There is at least one. `Display` writes the text for people.
///
/// ```
/// use vestibule::exit::{Exit, Fault, Phase, Report};
///
/// let fault = Fault {
///     exit: Exit::Missing,
///     subject: "credential `database` (svc/database)".into(),
///     problem: "there is no such secret".into(),
///     remedy: "create it at the manager".into(),
/// };
/// let report = Report::of(Phase::Secrets, fault);
/// assert_eq!(report.exit(), Exit::Missing);
/// assert!(report.to_string().starts_with("1 fault while fetching the credentials (exit code 66):"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Report {
    /// The phase that failed.
    pub phase: Phase,
    pub(crate) faults: Vec<Fault>,
}

impl Report {
    /// Returns a report of one fault.
    pub fn of(phase: Phase, fault: Fault) -> Self {
        Self { phase, faults: vec![fault] }
    }

    /// Returns `Ok` if there is no fault.
    ///
    /// # Errors
    /// A report of these faults.
    pub(crate) fn unless_clean(phase: Phase, faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self { phase, faults }) }
    }

    /// Returns all faults, in the order in which they occurred.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Returns the exit code of the process that this report ends.
    pub fn exit(&self) -> Exit {
        Exit::PRECEDENCE
            .into_iter()
            .find(|exit| self.faults.iter().any(|fault| fault.exit == *exit))
            .expect("every code is in the list, and there is a fault")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        let plural = if count == 1 { "fault" } else { "faults" };
        write!(f, "{count} {plural} while {} (exit code {}):", self.phase, self.exit() as u8)?;
        for fault in &self.faults {
            let (subject, problem) = (printable(&fault.subject), printable(&fault.problem));
            write!(f, "\n\n  {subject}\n    what:  {problem}\n    to do: {}", fault.remedy)?;
        }
        Ok(())
    }
}

/// Returns a text without what a terminal would obey. A key of a file, or a text from the network, may have such
/// characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_invisible(c) && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(exits: &[Exit]) -> Report {
        let faults = exits.iter().map(|exit| Fault::new(*exit, "s", "p", "r")).collect();
        Report::unless_clean(Phase::Secrets, faults).expect_err("there are faults")
    }

    #[test]
    fn a_fault_that_a_restart_cannot_mend_decides_the_exit_code() {
        assert_eq!(report(&[Exit::Deadline, Exit::Malformed, Exit::Denied, Exit::Missing]).exit(), Exit::Denied);
        assert_eq!(report(&[Exit::Malformed, Exit::Missing]).exit(), Exit::Missing);
        assert_eq!(report(&[Exit::Unavailable, Exit::Malformed]).exit(), Exit::Malformed);
        assert_eq!(report(&[Exit::Deadline, Exit::Unavailable]).exit(), Exit::Unavailable);
    }

    #[test]
    fn a_report_has_nothing_that_a_terminal_obeys() {
        let fault = Fault::new(Exit::Config, "default.toml:1 (a\u{1b}[31m)", "b\u{202e}c\nd", "r");
        let text = Report { phase: Phase::Config, faults: vec![fault] }.to_string();
        assert!(text.contains("(a\u{fffd}[31m)") && text.contains("b\u{fffd}c\nd"), "{text:?}");
    }

    #[test]
    fn a_report_names_every_fault() {
        let faults = vec![Fault::new(Exit::Config, "one", "p1", "r1"), Fault::new(Exit::Config, "two", "p2", "r2")];
        let text = Report { phase: Phase::Config, faults }.to_string();
        for part in ["2 faults", "exit code 78", "one", "p1", "r1", "two", "p2", "r2"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
