//! Notifications to systemd (`Type=notify-reload`). Each call does nothing if systemd did not start the process.

use crate::status::reload_record::ReloadOutcome;
use sd_notify::NotifyState;

/// Notifies systemd that the service is ready.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Notifies systemd that a reload starts. `RELOADING` and the time must be in one message, or `systemctl reload` hangs.
pub(crate) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Notifies systemd that a reload ended. `READY=1` does not say how it ended, so the status text does.
pub(crate) fn reloaded(generation: u64, outcome: ReloadOutcome) {
    let status = match outcome {
        ReloadOutcome::Published => format!("generation {generation} is in service"),
        ReloadOutcome::Unchanged => format!("nothing changed; generation {generation} is in service"),
        ReloadOutcome::Kept => {
            format!("the last reload FAILED; generation {generation} stays in service")
        }
    };
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Notifies systemd that the process is stopping.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "could not notify systemd");
    }
}
