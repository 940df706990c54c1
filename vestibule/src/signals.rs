//! Signals. `serve` handles them before it reads anything; until then, SIGHUP is ignored (`bootstrap/inherited.rs`).

use crate::telemetry;
use futures_util::StreamExt;
use signal_hook::{
    consts::{SIGABRT, SIGHUP, SIGINT, SIGTERM},
    flag, low_level,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The signals that the process has received.
#[derive(Clone)]
pub(crate) struct Signals {
    /// The number of SIGHUPs so far.
    pub(crate) hups: watch::Receiver<u64>,
    /// A token that the first SIGTERM or SIGINT cancels, or [`begin_stop`](Self::begin_stop). The next one ends the process
    /// at once, with 128 and its number.
    pub(crate) stopping: CancellationToken,
    /// `true` if the next SIGTERM or SIGINT ends the process.
    is_armed: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the operating system refuses a handler.
    pub(crate) fn install() -> io::Result<Self> {
        let mut received = signal_hook_tokio::Signals::new([SIGHUP, SIGTERM, SIGINT])?;
        let (hup_count, hups) = watch::channel(0);
        let signals = Self::new(hups);
        exit_if_armed(&signals.is_armed)?;
        let stop = signals.stopping.clone();
        tokio::spawn(async move {
            while let Some(signal) = received.next().await {
                match signal {
                    SIGHUP => hup_count.send_modify(|count| *count += 1),
                    _ => stop.cancel(),
                }
            }
        });
        Ok(signals)
    }

    /// Returns the signals of a process that has no handlers yet.
    pub(crate) fn new(hups: watch::Receiver<u64>) -> Self {
        Self { hups, stopping: CancellationToken::new(), is_armed: Arc::default() }
    }

    /// Begins the stop of the process, if no signal has begun it.
    pub(crate) fn begin_stop(&self) {
        self.is_armed.store(true, Ordering::SeqCst);
        self.stopping.cancel();
    }
}

#[cfg(test)]
impl Signals {
    /// Returns `true` if the next SIGTERM or SIGINT ends the process.
    pub(crate) fn is_next_one_the_last(&self) -> bool {
        self.is_armed.load(Ordering::SeqCst)
    }
}

/// The signals that end a command: SIGTERM and SIGINT.
pub(crate) struct CommandSignals {
    /// `true` if the next signal ends the process.
    is_armed: Arc<AtomicBool>,
}

impl CommandSignals {
    /// Makes the first signal end the process. If the operating system refuses a handler, the kernel's default actions
    /// apply. They end the process too, unless it is PID 1.
    pub(crate) fn install() -> Self {
        let is_armed = Arc::new(AtomicBool::new(true));
        let _ = exit_if_armed(&is_armed);
        Self { is_armed }
    }

    /// Does the work of a command that has something to give back afterwards. The first signal ends the work, and the
    /// second one the process.
    ///
    /// # Errors
    /// The signal that ended the work.
    pub(crate) async fn end_work<T>(&self, work: impl Future<Output = T>) -> Result<T, EndingSignal> {
        let Ok(mut signals) = signal_hook_tokio::Signals::new([SIGTERM, SIGINT]) else { return Ok(work.await) };
        self.is_armed.store(false, Ordering::SeqCst);
        tokio::select! {
            biased;
            Some(signal) = signals.next() => Err(EndingSignal(signal)),
            done = work => Ok(done),
        }
    }
}

/// A signal that has ended the work of a command.
#[derive(Clone, Copy)]
pub(crate) struct EndingSignal(i32);

impl EndingSignal {
    /// Ends the process, with 128 and the signal's number.
    pub(crate) fn exit(self) -> ! {
        telemetry::flush();
        low_level::exit(128 + self.0)
    }
}

/// Makes SIGTERM and SIGINT end the process if `armed` is set. Each of them sets it. An end by them, or by an abort, waits
/// for the log, for a second at most.
///
/// The handler itself ends the process, so no busy thread can delay it. It also works for PID 1 of a container, for
/// which the kernel's default actions do not apply.
fn exit_if_armed(armed: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        let is_armed = armed.clone();
        on_signal(signal, move || {
            if is_armed.load(Ordering::SeqCst) {
                telemetry::flush();
                low_level::exit(128 + signal);
            }
        })?;
        flag::register(signal, armed.clone())?;
    }
    on_signal(SIGABRT, || {
        telemetry::flush();
        let _ = low_level::emulate_default_handler(SIGABRT);
    })
}

/// Calls `handler` at a signal. It takes no lock and allocates nothing.
fn on_signal(signal: i32, handler: impl Fn() + Send + Sync + 'static) -> io::Result<()> {
    // SAFETY: the handlers above load atomics, look at the clock, poll, and end the process. signal-safety(7) allows it.
    #[expect(unsafe_code, reason = "what a signal handler does cannot be checked by the compiler")]
    unsafe {
        low_level::register(signal, handler)?;
    }
    Ok(())
}
