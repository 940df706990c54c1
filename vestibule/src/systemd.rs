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
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

/// The pause before a message is sent again for which there was no room. All services of a machine share the socket, and its
/// queue is short.
const PAUSE: Duration = Duration::from_millis(100);

/// Notifies systemd, and waits for nothing. A message that systemd has no room for is sent again. Each call does nothing if
/// systemd did not start the process.
#[derive(Clone)]
pub(crate) struct SystemdNotifier(Option<watch::Sender<UnsentMessages>>);

/// The messages that are not sent yet. A new state takes the place of an older one.
#[derive(Default)]
struct UnsentMessages {
    /// The begin of a reload. It comes before the state after that reload, or `systemctl reload` hangs.
    reloading: Option<String>,
    state: Option<String>,
    /// `true` if the process is stopping. Its state does not change any more.
    is_stopping: bool,
}

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
        let sender = watch::Sender::default();
        tasks.spawn(deliver(address, sender.clone()));
        Self(Some(sender))
    }

    /// Makes the notifier of a service without a process.
    pub(crate) fn detached() -> Self {
        Self(None)
    }

    /// Notifies systemd that the service is ready.
    pub(crate) fn ready(&self) {
        self.set_state(&[NotifyState::Ready]);
    }

    /// Notifies systemd that a reload starts. `RELOADING` and the time must be in one message, or `systemctl reload` hangs.
    pub(crate) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            let reloading = Some(message(&[NotifyState::Reloading, now]));
            self.change(|unsent| *unsent = UnsentMessages { reloading, ..UnsentMessages::default() });
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
        self.set_state(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Notifies systemd that the process is stopping. It is not notified of a reload any more.
    pub(crate) fn stopping(&self) {
        let state = Some(message(&[NotifyState::Stopping]));
        self.change(|unsent| *unsent = UnsentMessages { reloading: None, state, is_stopping: true });
    }

    fn set_state(&self, state: &[NotifyState<'_>]) {
        self.change(|unsent| unsent.state = Some(message(state)));
    }

    fn change(&self, change: impl FnOnce(&mut UnsentMessages)) {
        if let Some(sender) = &self.0 {
            sender.send_modify(|unsent| {
                if !unsent.is_stopping {
                    change(unsent);
                }
            });
        }
    }
}

impl UnsentMessages {
    /// Takes the message that is to be sent next.
    fn take(&mut self) -> Option<String> {
        self.reloading.take().or_else(|| self.state.take())
    }
}

/// Sends messages, one after the other.
async fn deliver(address: SocketAddr, sender: watch::Sender<UnsentMessages>) {
    let mut changes = sender.subscribe();
    loop {
        let mut message = None;
        sender.send_if_modified(|unsent| {
            message = unsent.take();
            false
        });
        let Some(message) = message else {
            // No error: this task has a sender.
            let _ = changes.changed().await;
            continue;
        };
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
    use tokio::time::timeout;

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

    #[tokio::test]
    async fn systemd_gets_the_newest_state_and_none_after_the_stop() {
        let name = format!("vestibule-{}", uuid::Uuid::new_v4());
        let systemd = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let systemd = tokio::net::UnixDatagram::from_std(systemd).unwrap();
        let receive = async || {
            let mut received = [0; 256];
            let length =
                timeout(Duration::from_secs(30), systemd.recv(&mut received)).await.expect("a message").unwrap();
            String::from_utf8(received[..length].to_vec()).unwrap()
        };
        let mut tasks = JoinSet::new();
        let notifier = SystemdNotifier::at(SocketAddr::from_abstract_name(&name).unwrap(), &mut tasks);
        // The task that sends runs when this one waits.
        notifier.ready();
        for generation in 1..=100 {
            notifier.reloading();
            notifier.reloaded(generation, ReloadOutcome::Published);
        }
        let reloading = receive().await;
        assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
        assert_eq!(receive().await, "READY=1\nSTATUS=generation 100 is in service\n");
        notifier.reloading();
        notifier.stopping();
        notifier.reloaded(100, ReloadOutcome::Kept);
        assert_eq!(receive().await, "STOPPING=1\n");
        notifier.reloading();
        notifier.reloaded(101, ReloadOutcome::Published);
        let left = notifier.0.expect("it is attached").send_replace(UnsentMessages::default()).take();
        assert_eq!(left, None);
    }
}
