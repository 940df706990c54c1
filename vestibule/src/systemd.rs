//! Notifications to systemd (`Type=notify-reload`, `WatchdogSec=`).

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
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

/// The largest number of messages that wait. A reload has two.
const LONGEST_QUEUE: usize = 64;

/// The pause before a message is sent again for which there was no room. All services of a machine share the socket, and its
/// queue is short.
const PAUSE: Duration = Duration::from_millis(100);

/// Notifies systemd, and waits for nothing. Messages that systemd has no room for are sent again, in their order. Each call
/// does nothing if systemd did not start the process.
#[derive(Clone)]
pub(crate) struct SystemdNotifier(Option<mpsc::Sender<String>>);

impl SystemdNotifier {
    /// Makes the notifier of this process. `tasks` gets the tasks that send, also the one that says that the runtime still runs
    /// tasks.
    pub(crate) fn start(tasks: &mut JoinSet<()>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "systemd gives the address of its socket in this variable")]
        let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return Self::detached() };
        let address = match address(&socket) {
            Ok(address) => address,
            Err(error) => {
                log_lost(&error);
                return Self::detached();
            }
        };
        if let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) {
            tasks.spawn(keep_alive(address.clone(), limit));
        }
        Self::at(address, tasks)
    }

    fn at(address: SocketAddr, tasks: &mut JoinSet<()>) -> Self {
        let (queue, messages) = mpsc::channel(LONGEST_QUEUE);
        tasks.spawn(deliver(address, messages));
        Self(Some(queue))
    }

    /// Makes the notifier of a service without a process.
    pub(crate) fn detached() -> Self {
        Self(None)
    }

    /// Notifies systemd that the service is ready.
    pub(crate) fn ready(&self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Notifies systemd that a reload starts. `RELOADING` and the time must be in one message, or `systemctl reload` hangs.
    pub(crate) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.notify(&[NotifyState::Reloading, now]);
        }
    }

    /// Notifies systemd that a reload ended. `READY=1` does not say how it ended, so the status text does.
    pub(crate) fn reloaded(&self, generation: u64, outcome: ReloadOutcome) {
        let status = match outcome {
            ReloadOutcome::Published => format!("generation {generation} is in service"),
            ReloadOutcome::Unchanged => format!("nothing changed; generation {generation} is in service"),
            ReloadOutcome::Kept => {
                format!("the last reload FAILED; generation {generation} stays in service")
            }
        };
        self.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Notifies systemd that the process is stopping.
    pub(crate) fn stopping(&self) {
        self.notify(&[NotifyState::Stopping]);
    }

    fn notify(&self, state: &[NotifyState<'_>]) {
        if let Some(queue) = &self.0
            && let Err(error) = queue.try_send(message(state))
        {
            tracing::warn!(%error, "could not notify systemd; the message is lost");
        }
    }
}

/// Sends messages, one after the other.
async fn deliver(address: SocketAddr, mut messages: mpsc::Receiver<String>) {
    while let Some(message) = messages.recv().await {
        if let Err(error) = send(&address, &message).await {
            log_lost(&error);
        }
    }
}

/// Notifies systemd twice in each `WatchdogSec=` that the runtime still runs tasks.
async fn keep_alive(address: SocketAddr, limit: Duration) {
    let mut beats = interval(limit / 2);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let beat = message(&[NotifyState::Watchdog]);
    let mut is_heard = true;
    loop {
        beats.tick().await;
        let sent = send(&address, &beat).await;
        match &sent {
            Err(error) if is_heard => log_lost(error),
            _ => (),
        }
        is_heard = sent.is_ok();
    }
}

/// Sends a message, as often as it takes until there is room for it.
///
/// # Errors
/// If nobody listens. The message is lost.
async fn send(address: &SocketAddr, message: &str) -> io::Result<()> {
    let mut is_logged = false;
    loop {
        match try_send(address, message) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !is_logged {
                    tracing::warn!(%error, "could not notify systemd; trying again");
                    is_logged = true;
                }
                sleep(PAUSE).await;
            }
            sent => return sent,
        }
    }
}

/// Sends a message, if there is room for it. The function of `sd_notify` would wait for ever.
fn try_send(address: &SocketAddr, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), address)?;
    Ok(())
}

fn message(state: &[NotifyState<'_>]) -> String {
    state.iter().map(|part| format!("{part}\n")).collect()
}

/// Returns the address of a socket: its path, or an abstract name after `@` (sd_notify(3)).
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(socket)
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
            try_send(&address(socket).unwrap(), &message(&[NotifyState::Ready])).expect("somebody listens");
            let mut received = [0; 64];
            let length = systemd.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1\n", "{}", socket.display());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
