//! Notifications to systemd (`Type=notify-reload`, `WatchdogSec=`). Each call does nothing if systemd did not start the process.

use crate::status::reload_record::ReloadOutcome;
use sd_notify::NotifyState;
#[cfg(target_os = "linux")]
use std::os::{linux::net::SocketAddrExt, unix::ffi::OsStrExt};
use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// The longest wait of a message for room. All services of a machine share the socket, and its queue is short.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

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

/// Notifies systemd twice in each `WatchdogSec=` that the runtime still runs tasks. Ends at once if systemd does not ask for
/// that.
pub(crate) async fn keep_alive() {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    let mut beats = interval(limit / 2);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_heard = true;
    loop {
        beats.tick().await;
        // The next one comes soon, so this one need not wait.
        let sent = send(&[NotifyState::Watchdog], Duration::ZERO);
        match &sent {
            Err(error) if is_heard => log_lost(error),
            _ => (),
        }
        is_heard = sent.is_ok();
    }
}

/// Notifies systemd that the process is stopping.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = send(state, LONGEST_WAIT) {
        log_lost(&error);
    }
}

/// Sends a message, if there is somebody to get it.
///
/// # Errors
/// If the message is lost.
fn send(state: &[NotifyState<'_>], longest_wait: Duration) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "systemd gives the address of its socket in this variable")]
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    send_to(&address(&socket)?, state, longest_wait)
}

/// Returns the address of a socket: its path, or an abstract name after `@` (sd_notify(3)).
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(socket)
}

/// Sends a message. Waits no longer than this for systemd to read others: the function of `sd_notify` would wait for ever.
///
/// # Errors
/// If the message is lost.
fn send_to(address: &SocketAddr, state: &[NotifyState<'_>], longest_wait: Duration) -> io::Result<()> {
    let message: String = state.iter().map(|part| format!("{part}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    if longest_wait.is_zero() {
        socket.set_nonblocking(true)?;
    } else {
        socket.set_write_timeout(Some(longest_wait))?;
    }
    socket.send_to_addr(message.as_bytes(), address)?;
    Ok(())
}

fn log_lost(error: &io::Error) {
    tracing::warn!(%error, "could not notify systemd; the message is lost");
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_message_gets_to_a_path_and_to_an_abstract_name() {
        let name = format!("vestibule-{}", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(format!("{name}.sock"));
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (systemd, socket) in [(at_path, path.as_os_str()), (at_name, OsStr::new(&format!("@{name}")))] {
            send_to(&address(socket).unwrap(), &[NotifyState::Ready], LONGEST_WAIT).expect("somebody listens");
            let mut message = [0; 64];
            let length = systemd.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1\n", "{}", socket.display());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
