//! A child process that ends with its owner.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::stack::error::Error;
use crate::stack::polling::Polling;
use crate::stack::python_environment::PythonEnvironment;

const POLL: Duration = Duration::from_millis(5);

/// A signal that asks a child to stop, and the time that the child has for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopSignal {
    /// The signal. SIGKILL is sent to the child's own children, too.
    pub(crate) signal: Signal,
    /// The time after which a child that still runs is killed.
    pub(crate) grace: Duration,
}

/// The user as which a child runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnixUser {
    /// The user id.
    pub(crate) uid: u32,
    /// The group id.
    pub(crate) gid: u32,
}

/// A child process that cannot outlive us, even if we are killed with `kill -9`.
#[derive(Debug)]
pub(crate) struct SupervisedProcess {
    child: Child,
    stop: StopSignal,
}

impl SupervisedProcess {
    /// Returns a command that runs `program`. The caller adds arguments, environment and output.
    pub(crate) fn command(
        python: &PythonEnvironment,
        program: &Path,
        stop: StopSignal,
        user: Option<UnixUser>,
    ) -> Command {
        let mut command = Command::new(python.interpreter());
        command
            .args(["-I", "-S"])
            .arg(python.supervise_script())
            .arg(stop.signal.as_raw().to_string())
            .arg(stop.grace.as_secs_f64().to_string())
            .arg(user.map_or_else(String::new, |UnixUser { uid, gid }| format!("{uid}:{gid}")))
            .arg(program);
        command
    }

    /// Starts the command. The watchdog uses its standard input.
    pub(crate) fn spawn(mut command: Command, stop: StopSignal) -> io::Result<Self> {
        // A process group of its own: Ctrl-C at the terminal is for us, and we stop our children in order.
        let child = command.stdin(Stdio::piped()).process_group(0).spawn()?;
        Ok(Self { child, stop })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Returns the child's own process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal if the child still runs.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Kills the child and its children.
    fn kill(&mut self) {
        if self.exited().is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
    }

    /// Returns the exit status, or `None` if the child still runs.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        if let Some(mut watchdog) = self.child.stdin.take() {
            let _ = watchdog.write_all(b".");
        }
        Some(status)
    }

    /// Asks the child to stop and waits. Kills it after its grace time.
    pub(crate) fn stop(&mut self) {
        match self.stop.signal {
            Signal::KILL => self.kill(),
            signal => self.signal(signal),
        }
        let within_grace = Polling { interval: POLL, limit: self.stop.grace };
        if within_grace.until_blocking(|| self.exited()).is_some() {
            return;
        }
        Polling { interval: POLL, limit: Duration::MAX }.until_blocking(|| {
            self.kill();
            self.exited()
        });
    }
}

impl Drop for SupervisedProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a signal to a process that is not our child.
pub fn send_signal(pid: u32, signal: Signal) -> Result<(), Error> {
    let doing = format!("send a signal to process {pid}");
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Err(Error::io(doing)(io::ErrorKind::InvalidInput.into()));
    };
    kill_process(pid, signal).map_err(|error| Error::io(doing)(error.into()))
}
