//! The signals that ask `cargo dev` to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Counts SIGINT, SIGTERM and SIGHUP.
pub(crate) fn stop_signals() -> watch::Receiver<u32> {
    let (sender, count) = watch::channel(0);
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let sender = sender.clone();
        let mut signals = signal(kind).expect("none of these is forbidden to handle");
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                sender.send_modify(|count| *count += 1);
            }
        });
    }
    count
}
