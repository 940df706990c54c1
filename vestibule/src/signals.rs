//! Signals, from the first moment on: an unhandled SIGHUP would kill the process during its bootstrap.

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the process has been asked for.
pub(crate) struct Signals {
    /// How many SIGHUP were seen.
    pub(crate) hups: watch::Receiver<u64>,
    /// Cancelled by the first SIGTERM or SIGINT. A second one ends the process at once, with 128 and its number.
    pub(crate) stopping: CancellationToken,
}

impl Signals {
    /// Installs the handlers. Needs a tokio runtime.
    pub(crate) fn install() -> io::Result<Self> {
        let mut signals = signal_hook_tokio::Signals::new([SIGHUP, SIGTERM, SIGINT])?;
        let (hup, hups) = watch::channel(0);
        let stopping = CancellationToken::new();
        let stop = stopping.clone();
        tokio::spawn(async move {
            while let Some(signal) = signals.next().await {
                match signal {
                    SIGHUP => hup.send_modify(|seen| *seen += 1),
                    signal if stop.is_cancelled() => signal_hook::low_level::exit(128 + signal),
                    _ => stop.cancel(),
                }
            }
        });
        Ok(Self { hups, stopping })
    }
}
