//! Signals, from the first moment on: an unhandled SIGHUP would kill the process during its bootstrap.

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the process has been asked for.
pub(crate) struct Signals {
    /// How many SIGHUP were seen.
    pub(crate) hups: watch::Receiver<u64>,
    /// Cancelled by the first SIGTERM or SIGINT. A second one ends the process at once, with 128 and its number.
    pub(crate) stopping: CancellationToken,
}

/// Ends the process at the first SIGTERM or SIGINT that finds `armed` set; each sets it. Inside the handler, so that no
/// busy thread can keep it waiting; and as PID 1 of a container, where the kernel's own actions do not apply.
fn end_at_once(armed: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, armed.clone())?;
        signal_hook::flag::register(signal, armed.clone())?;
    }
    Ok(())
}

/// For commands that have nothing to finish.
pub(crate) fn end_at_first() -> io::Result<()> {
    end_at_once(&Arc::new(AtomicBool::new(true)))
}

impl Signals {
    /// Installs the handlers. Needs a tokio runtime.
    pub(crate) fn install() -> io::Result<Self> {
        let mut signals = signal_hook_tokio::Signals::new([SIGHUP, SIGTERM, SIGINT])?;
        end_at_once(&Arc::new(AtomicBool::new(false)))?;
        let (hup, hups) = watch::channel(0);
        let stopping = CancellationToken::new();
        let stop = stopping.clone();
        tokio::spawn(async move {
            while let Some(signal) = signals.next().await {
                match signal {
                    SIGHUP => hup.send_modify(|seen| *seen += 1),
                    _ => stop.cancel(),
                }
            }
        });
        Ok(Self { hups, stopping })
    }
}
