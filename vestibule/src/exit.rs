//! How a process ends: the documented exit codes, and the report that names every fault.

use std::fmt;

/// Exit codes, after BSD's `sysexits.h`. Each fault has one; a report ends with the first that applies.
///
/// A supervisor restarts only what a restart can mend: [`Unavailable`](Exit::Unavailable) and
/// [`Deadline`](Exit::Deadline).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// 64: the command line is wrong.
    Usage = 64,
    /// 65: a credential is malformed or empty.
    Malformed = 65,
    /// 66: a credential does not exist.
    Missing = 66,
    /// 69: the secrets manager or the database is unavailable, or the schema is behind; an audit found a rotation that
    /// is not complete.
    Unavailable = 69,
    /// 70: a bug in the service or the framework.
    Bug = 70,
    /// 71: a listen address cannot be bound.
    Bind = 71,
    /// 75: the deadline passed while the last attempt was still unanswered.
    Deadline = 75,
    /// 77: the manager refuses us, or the database refuses the login.
    Denied = 77,
    /// 78: the configuration is wrong.
    Config = 78,
}

impl Exit {
    /// Which code a report ends with when its faults differ, the first that occurs.
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
}

impl Exit {
    /// The exit of this code, if it is one.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::PRECEDENCE.into_iter().find(|exit| *exit as u8 == code)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// One thing that is wrong: where, what, and what to do about it. Carries names and ids, never a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The code a process ends with if this is its only fault.
    pub exit: Exit,
    /// Where: a credential with its id, a file with its line, an environment variable.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
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

/// The part of the road on which faults were met.
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

/// Every fault of the phase that failed, one at least. Its `Display` is the text for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Report {
    /// Where the road ended.
    pub phase: Phase,
    pub(crate) faults: Vec<Fault>,
}

impl Report {
    /// A report of one fault.
    pub fn of(phase: Phase, fault: Fault) -> Self {
        Self { phase, faults: vec![fault] }
    }

    /// `Ok` where there is no fault to report.
    pub(crate) fn unless_clean(phase: Phase, faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self { phase, faults }) }
    }

    /// All faults, in the order in which they were met.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The code of the process that this report ends.
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
            write!(f, "\n\n  {}\n    what:  {}\n    to do: {}", fault.subject, fault.problem, fault.remedy)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(exits: &[Exit]) -> Report {
        let faults = exits.iter().map(|exit| Fault::new(*exit, "s", "p", "r")).collect();
        Report::unless_clean(Phase::Secrets, faults).expect_err("there are faults")
    }

    #[test]
    fn what_a_restart_cannot_mend_decides_the_code() {
        assert_eq!(report(&[Exit::Deadline, Exit::Malformed, Exit::Denied, Exit::Missing]).exit(), Exit::Denied);
        assert_eq!(report(&[Exit::Malformed, Exit::Missing]).exit(), Exit::Missing);
        assert_eq!(report(&[Exit::Unavailable, Exit::Malformed]).exit(), Exit::Malformed);
        assert_eq!(report(&[Exit::Deadline, Exit::Unavailable]).exit(), Exit::Unavailable);
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
