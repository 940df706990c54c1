//! The lines between those who log and the thread that writes. Whoever logs never waits for the thread.

use crate::metrics::{Counter, MetricsRegistry};
use prometheus_client::metrics::family::Family;
use rustix::event::{Timespec, poll};
use std::{
    borrow::Cow,
    mem,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use zeroize::Zeroize;

/// The most bytes that wait. As many again may be with the thread.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The most lines that wait.
const MAX_LINES: usize = 16 * 1024;

/// The memory that an empty buffer keeps for the next lines, in bytes.
const KEPT_BYTES: usize = 256 * 1024;

/// The time for which the thread lets lines gather before it takes more. So a busy service wakes it rarely.
const GATHER: Duration = Duration::from_millis(5);

/// The time between two looks at the lines that are not written yet, at the end of the process.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// A buffer of log lines, bounded by lines and by bytes. A full one drops the newest lines, and counts them.
#[derive(Default)]
pub(crate) struct LogBuffer {
    waiting: Mutex<WaitingLines>,
    /// Wakes the thread.
    lines_wait: Condvar,
    /// The number of lines that wait or are being written.
    unwritten: AtomicUsize,
    /// `true` after an attempt to write failed, until one succeeds.
    is_unwritable: AtomicBool,
    pub(super) counters: LogCounters,
}

#[derive(Default)]
struct WaitingLines {
    lines: LogLines,
    /// The number of lines that were dropped since the thread last took lines.
    dropped: u64,
    /// `true` while the thread waits for a line.
    is_idle: bool,
}

/// Lines of the log, one after the other.
#[derive(Default)]
pub(super) struct LogLines {
    text: Vec<u8>,
    ends: Vec<LineEnd>,
}

/// The end of a line, and the target of its event.
struct LineEnd {
    at: usize,
    /// `true` if the log left out the end of a value.
    is_cut: bool,
    target: Cow<'static, str>,
}

/// The metrics of the log.
#[derive(Clone, Default)]
pub(super) struct LogCounters {
    dropped: Family<[(&'static str, &'static str); 1], Counter>,
    pub(super) withheld: Counter,
}

/// The reason for which a line was dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum DropReason {
    /// The buffer was full.
    Full,
    /// The log could not be written.
    Unwritable,
}

impl LogBuffer {
    /// Adds a line, with its newline. Drops it if there is no room. `is_cut` says that the log left out the end of a value.
    pub(super) fn push(&self, line: &str, is_cut: bool, target: Cow<'static, str>) {
        let mut waiting = self.lock();
        let bytes = waiting.lines.text.len() + line.len();
        if bytes > MAX_BYTES || waiting.lines.ends.len() == MAX_LINES {
            waiting.dropped += 1;
            drop(waiting);
            self.counters.dropped(self.drop_reason()).inc();
            return;
        }
        let was_half_full = waiting.is_half_full();
        waiting.lines.push(line, is_cut, target);
        let wakes = mem::take(&mut waiting.is_idle) || (waiting.is_half_full() && !was_half_full);
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        drop(waiting);
        if wakes {
            self.lines_wait.notify_one();
        }
    }

    /// Waits for lines and takes all. Returns them, and the number of lines that were dropped meanwhile. The next lines go
    /// into `empty`.
    pub(super) fn take(&self, empty: LogLines) -> (LogLines, u64) {
        let mut waiting = self.lock();
        while waiting.lines.is_empty() {
            waiting.is_idle = true;
            waiting = self.lines_wait.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_idle = false;
        (mem::replace(&mut waiting.lines, empty), mem::take(&mut waiting.dropped))
    }

    /// Records that these many lines were written, or given up.
    pub(super) fn finished(&self, count: usize, is_unwritable: bool) {
        self.is_unwritable.store(is_unwritable, Ordering::Relaxed);
        self.unwritten.fetch_sub(count, Ordering::Release);
    }

    /// Waits until more lines have gathered.
    pub(super) fn gather(&self) {
        let waiting = self.lock();
        let _ = self.lines_wait.wait_timeout_while(waiting, GATHER, |waiting| !waiting.is_half_full());
    }

    /// Waits for this time, whatever comes.
    pub(super) fn pause(&self, pause: Duration) {
        let waiting = self.lock();
        let _ = self.lines_wait.wait_timeout_while(waiting, pause, |_| true);
    }

    /// Waits until every line is written, for `limit` at most. Does not wait for a log that cannot be written.
    ///
    /// A signal handler may call it: it takes no lock and allocates nothing.
    pub(crate) fn wait_until_written(&self, limit: Duration) {
        let start = Instant::now();
        while self.unwritten.load(Ordering::Acquire) > 0
            && !self.is_unwritable.load(Ordering::Relaxed)
            && start.elapsed() < limit
        {
            let _ = poll(&mut [], Some(&LOOK));
        }
    }

    /// Returns the reason for which a line is dropped now, if the buffer is full.
    pub(super) fn drop_reason(&self) -> DropReason {
        if self.is_unwritable.load(Ordering::Relaxed) { DropReason::Unwritable } else { DropReason::Full }
    }

    fn lock(&self) -> MutexGuard<'_, WaitingLines> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingLines {
    fn is_half_full(&self) -> bool {
        self.lines.text.len() > MAX_BYTES / 2 || self.lines.ends.len() > MAX_LINES / 2
    }
}

impl LogLines {
    pub(super) fn push(&mut self, line: &str, is_cut: bool, target: Cow<'static, str>) {
        self.text.extend_from_slice(line.as_bytes());
        self.ends.push(LineEnd { at: self.text.len(), is_cut, target });
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the number of the line to which the byte at this place belongs.
    pub(super) fn line_at(&self, place: usize) -> usize {
        self.ends.partition_point(|end| end.at <= place)
    }

    /// Returns `true` if the log left out the end of a value of this line.
    pub(super) fn is_cut(&self, number: usize) -> bool {
        self.ends[number].is_cut
    }

    /// Replaces lines, by their numbers, and wipes them: they contain secrets. `replacement` gets a line's number and its
    /// target, and returns `None` for a line that stays.
    pub(super) fn replace(&mut self, mut replacement: impl FnMut(usize, &str) -> Option<String>) {
        let mut replaced = Self::default();
        let mut start = 0;
        for (number, end) in mem::take(&mut self.ends).into_iter().enumerate() {
            match replacement(number, &end.target) {
                Some(line) => replaced.text.extend_from_slice(line.as_bytes()),
                None => replaced.text.extend_from_slice(&self.text[start..end.at]),
            }
            start = end.at;
            replaced.ends.push(LineEnd { at: replaced.text.len(), ..end });
        }
        self.text.zeroize();
        *self = replaced;
    }

    /// Returns no lines, in the same memory. If it is large, it is freed.
    pub(super) fn cleared(mut self) -> Self {
        if self.text.capacity() > KEPT_BYTES {
            return Self::default();
        }
        self.text.clear();
        self.ends.clear();
        self
    }
}

impl LogCounters {
    /// Registers the metrics. Each series exists from the start, with 0.
    pub(super) fn register(&self, metrics: &MetricsRegistry) {
        self.dropped(DropReason::Full);
        self.dropped(DropReason::Unwritable);
        let help = "Lines of the log that were dropped, because the buffer was full or the log could not be written";
        metrics.register("vestibule_log_lines_dropped", help, self.dropped.clone());
        let help = "Lines of the log that were withheld, because they contained a secret";
        metrics.register("vestibule_log_lines_withheld", help, self.withheld.clone());
    }

    pub(super) fn dropped(&self, reason: DropReason) -> Counter {
        let reason = match reason {
            DropReason::Full => "full",
            DropReason::Unwritable => "unwritable",
        };
        self.dropped.get_or_create_owned(&[("reason", reason)])
    }
}
