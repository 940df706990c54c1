//! The process of the service, as the kernel names it.

use super::super::{admin::command_error, command_connection::CommandConnection};
use crate::{bootstrap::command_error::CommandError, exit::Exit};
#[cfg(target_os = "linux")]
use rustix::{
    fd::OwnedFd,
    process::{PidfdFlags, pidfd_open, pidfd_send_signal},
};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

/// The process that listens at the command socket.
pub(super) struct ServiceProcess {
    pid: Pid,
    /// A handle, which never names a later process of the same number. `None` if the kernel has none, or a sandbox forbids
    /// it.
    #[cfg(target_os = "linux")]
    handle: Option<OwnedFd>,
}

impl ServiceProcess {
    /// Returns the process at the other end of a connection.
    ///
    /// # Errors
    /// If it is not visible in this PID namespace, or if it is not `expected`.
    pub(super) fn of(service: &CommandConnection, expected: Option<i32>) -> Result<Self, CommandError> {
        let Some(pid) = service.process() else {
            let problem = "its process is in another PID namespace, where this command cannot send it a signal";
            let remedy = "run the command in the service's own container, or let both containers share the PID namespace \
                          (Kubernetes: shareProcessNamespace, Docker: --pid)";
            return Err(service.error(problem.into(), remedy));
        };
        if let Some(expected) = expected
            && expected != pid.as_raw_pid()
        {
            let problem = format!("it is not the service of this configuration, which is process {pid}");
            let remedy = "leave --pid out, or give the configuration of that service (--config-dir, APP_ADMIN__LISTEN)";
            return Err(command_error(Exit::Usage, format!("--pid {expected}"), problem, remedy));
        }
        Ok(Self {
            pid,
            #[cfg(target_os = "linux")]
            handle: pidfd_open(pid, PidfdFlags::empty()).ok(),
        })
    }

    /// Sends SIGHUP.
    ///
    /// # Errors
    /// If the process ended, or if this user may not send it a signal.
    pub(super) fn send_hup(&self) -> Result<(), CommandError> {
        let error = |exit, problem: &str, remedy| {
            Err(command_error(exit, format!("process {}", self.pid), problem.into(), remedy))
        };
        match self.signal() {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => error(Exit::Unavailable, "it ended", "see the log of the service"),
            Err(_) => {
                error(Exit::Denied, "this user may not send it a signal", "run the command as the user of the service")
            }
        }
    }

    fn signal(&self) -> Result<(), Errno> {
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            return pidfd_send_signal(handle, Signal::HUP);
        }
        kill_process(self.pid, Signal::HUP)
    }
}
