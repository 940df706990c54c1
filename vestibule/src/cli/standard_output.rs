//! Standard output, for what a command prints. Whoever reads it must know if a part is missing.

use crate::{
    cause::RootCause,
    exit::{Exit, Fault, Phase, Report},
};
use std::{
    fmt,
    io::{self, ErrorKind, Write},
    sync::OnceLock,
};

/// The first error. A command does not end at it: `reload --fleet` must not stop halfway.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line.
pub(super) fn write_line(line: fmt::Arguments<'_>) {
    remember(writeln!(io::stdout(), "{line}"));
}

/// Remembers the error of something that was printed.
pub(super) fn remember(printed: io::Result<()>) {
    if let Err(error) = unless_reader_is_gone(printed) {
        let _ = FAILED.set(error);
    }
}

/// Returns the report of what could not be printed, if there is something.
pub(super) fn failure() -> Option<Report> {
    let problem = format!("it cannot be written: {}", RootCause::of(FAILED.get()?));
    let remedy = "make room there, or send it elsewhere; then run the command again";
    Some(Report::of(Phase::Command, Fault::new(Exit::Unavailable, "standard output", problem, remedy)))
}

/// Ignores that the reader has gone away, as that of `… config | head -1` does: it has what it wants.
fn unless_reader_is_gone(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_a_reader_that_is_gone_is_none() {
        let mut full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let error = unless_reader_is_gone(writeln!(full, "a line")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        let printed = writeln!(writer, "a line");
        assert!(printed.is_err() && unless_reader_is_gone(printed).is_ok());
    }
}
