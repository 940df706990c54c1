//! The output of a process, read while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::stack::polling::Polling;

/// The wait for the end of a stream. It has a limit, because a child of the process can hold the stream open after the
/// process has ended.
const END: Polling = Polling { interval: Duration::from_millis(5), limit: Duration::from_secs(5) };

/// The lines of one stream. A thread reads them.
pub(super) struct CapturedOutput {
    lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
    gate: Arc<ReadingGate>,
}

/// The work of the thread that reads.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// It reads.
    #[default]
    Goes,
    /// It reads nothing, and has the stream open.
    Paused,
    /// It closes the stream after the next line.
    Ends,
}

/// A gate that the thread passes before each line.
#[derive(Default)]
struct ReadingGate {
    reading: Mutex<Reading>,
    changed: Condvar,
}

impl ReadingGate {
    /// Waits while the thread is paused. Returns false if it ends.
    fn pass(&self) -> bool {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = self.changed.wait_while(reading, |reading| *reading == Reading::Paused);
        *passed.unwrap_or_else(PoisonError::into_inner) == Reading::Goes
    }
}

impl CapturedOutput {
    pub(super) fn start(stream: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let gate = Arc::<ReadingGate>::default();
        let passed = Arc::clone(&gate);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if !passed.pass() {
                    return;
                }
                let line = String::from_utf8_lossy(&line).into_owned();
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { lines, reader, gate }
    }

    /// Lets the thread read, pause or end.
    pub(super) fn set(&self, reading: Reading) {
        *self.gate.reading.lock().unwrap_or_else(PoisonError::into_inner) = reading;
        self.gate.changed.notify_all();
    }

    /// Returns the lines so far.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns true if the stream has ended, and every line is there.
    pub(super) fn ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// Waits for the end of the stream, at most 5 s.
    pub(super) fn wait_for_end(&self) {
        let _ = END.until_blocking(|| if self.ended() { Some(()) } else { None });
    }
}
