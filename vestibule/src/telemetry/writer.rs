//! The thread that writes the log.

use super::{
    buffer::{DropReason, LogBuffer, LogLines},
    json::{JsonLine, LogClock},
    live_secrets,
};
use crate::config::settings::LogFormat;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use serde_json::Value;
use std::{
    borrow::Cow,
    io::{self, ErrorKind, Write},
    mem::{self, MaybeUninit},
    ptr,
    sync::Arc,
    thread,
    time::Duration,
};
use tracing::Level;

/// The target of the lines that the thread itself writes.
const TARGET: &str = "vestibule::telemetry";

/// The pause after a first attempt to write that failed. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause after an attempt to write that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A writer of the log. It withholds lines that contain a secret.
pub(super) struct LogWriter<W> {
    buffer: Arc<LogBuffer>,
    format: LogFormat,
    out: W,
    clock: LogClock,
    /// The memory of the lines that were written last.
    empty: LogLines,
    /// The numbers of dropped lines that the log does not have yet, by reason.
    unsaid_full: u64,
    unsaid_unwritable: u64,
    /// `true` after a part of a line was written, and not its end.
    is_within_line: bool,
    /// The pause after the next attempt that fails.
    pause: Duration,
}

/// Starts the thread.
///
/// # Errors
/// If the operating system has no further thread.
pub(super) fn start(buffer: Arc<LogBuffer>, format: LogFormat, out: impl Write + Send + 'static) -> io::Result<()> {
    let mut writer = LogWriter::new(buffer, format, out);
    let thread = thread::Builder::new().name("log".into());
    thread.spawn(move || {
        block_signals();
        loop {
            writer.write_next();
        }
    })?;
    Ok(())
}

impl<W: Write> LogWriter<W> {
    pub(super) fn new(buffer: Arc<LogBuffer>, format: LogFormat, out: W) -> Self {
        Self {
            buffer,
            format,
            out,
            clock: LogClock::default(),
            empty: LogLines::default(),
            unsaid_full: 0,
            unsaid_unwritable: 0,
            is_within_line: false,
            pause: FIRST_PAUSE,
        }
    }

    /// Waits for lines, and writes them. If that fails, gives up the lines that were not written, and pauses.
    pub(super) fn write_next(&mut self) {
        let (mut lines, dropped) = self.buffer.take(mem::take(&mut self.empty));
        match self.buffer.drop_reason() {
            DropReason::Full => self.unsaid_full += dropped,
            DropReason::Unwritable => self.unsaid_unwritable += dropped,
        }
        let count = lines.len();
        self.withhold_secrets(&mut lines);
        self.add_dropped(&mut lines);
        let (written, result) = self.write_all(lines.text());
        if result.is_ok() {
            (self.unsaid_full, self.unsaid_unwritable) = (0, 0);
            self.pause = FIRST_PAUSE;
            self.buffer.finished(count, false);
            self.empty = lines.cleared();
            self.buffer.gather();
            return;
        }
        let lost = count.saturating_sub(lines.line_at(written)) as u64;
        self.buffer.counters.dropped(DropReason::Unwritable).inc_by(lost);
        self.unsaid_unwritable += lost;
        self.buffer.finished(count, true);
        self.empty = lines.cleared();
        self.buffer.pause(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Replaces each line that contains a secret by one that names its target.
    fn withhold_secrets(&mut self, lines: &mut LogLines) {
        let found = live_secrets::find_in(lines);
        if found.is_empty() {
            return;
        }
        self.buffer.counters.withheld.inc_by(found.len() as u64);
        lines.replace(|number, target| {
            let credential = *found.get(&number)?;
            let fields = [("log.target", target.into()), ("credential", credential.into())];
            Some(self.line(Level::ERROR, "a line of the log contained a secret; it is withheld", &fields))
        });
    }

    /// Adds a line with the numbers of dropped lines, if there are any.
    fn add_dropped(&mut self, lines: &mut LogLines) {
        if self.unsaid_full + self.unsaid_unwritable == 0 {
            return;
        }
        let fields = [("log.full", self.unsaid_full.into()), ("log.unwritable", self.unsaid_unwritable.into())];
        let line = self.line(Level::WARN, "lines of the log were dropped, because nobody took them", &fields);
        lines.push(&line, false, Cow::Borrowed(TARGET));
    }

    /// Returns a line of the log about the log. The filter does not apply to it.
    fn line(&mut self, level: Level, message: &str, fields: &[(&str, Value)]) -> String {
        let mut text = String::new();
        match self.format {
            LogFormat::Json => {
                let mut line = JsonLine::begin(&mut text, &mut self.clock, level);
                line.string("message", message);
                for (name, value) in fields {
                    line.json(name, &value.to_string());
                }
                line.end(TARGET, None);
            }
            LogFormat::Pretty => {
                self.clock.write(&mut text);
                let fields: String = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                text.push_str(&format!(" {level:>5} {TARGET}: {message}{fields}\n"));
            }
        }
        text
    }

    /// Writes all. Returns the number of bytes that were written, and the error if these are not all.
    fn write_all(&mut self, text: &[u8]) -> (usize, io::Result<()>) {
        if self.is_within_line {
            match self.out.write_all(b"\n") {
                Ok(()) => self.is_within_line = false,
                Err(error) => return (0, Err(error)),
            }
        }
        let mut written = 0;
        while written < text.len() {
            match self.out.write(&text[written..]) {
                Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => {
                    self.is_within_line = written > 0 && text[written - 1] != b'\n';
                    return (written, Err(error));
                }
            }
        }
        (written, Ok(()))
    }
}

/// Standard output, without the lock and the buffer of the standard library. Both belong to the commands.
pub(super) struct StandardOutput;

impl Write for StandardOutput {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let stdout = io::stdout();
        loop {
            match rustix::io::write(&stdout, text) {
                // Somebody who shares the pipe or the terminal has made it non-blocking.
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None)?;
                }
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Blocks all signals on this thread. A handler that waits for the thread must not run on it.
fn block_signals() {
    let mut all = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initializes the set, and both pointers are valid for the calls.
    #[expect(unsafe_code, reason = "rustix cannot change the signal mask of a process that uses libc")]
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut());
    }
}
