//! What systemd is told, where it started us (`Type=notify-reload`). Elsewhere each call does nothing.

use crate::status::reload_record::ReloadOutcome;
use sd_notify::NotifyState;

/// The listeners are bound.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload began. systemd wants both in one message, or `systemctl reload` hangs.
pub(crate) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// A reload ended, well or not: `READY=1` says only that it ended, so the status says how.
pub(crate) fn reloaded(generation: u64, outcome: ReloadOutcome) {
    let status = match outcome {
        ReloadOutcome::Published => format!("generation {generation} is in service"),
        ReloadOutcome::Unchanged => format!("nothing changed; generation {generation} is in service"),
        ReloadOutcome::Kept => {
            format!("the last reload FAILED; generation {generation} stays in service")
        }
    };
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Stopping began.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
