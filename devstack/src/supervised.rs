use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::Error;
use crate::python::Python;

/// How a child is asked to stop, and how long it may take before it is killed.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// SIGKILL goes to whatever the child has started, too.
    pub signal: Signal,
    /// Then it is killed.
    pub grace: Duration,
}

/// Whom a child runs as.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// The user's id.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

/// A child process that cannot outlive us, even if we are killed with `kill -9`.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    stop: Stop,
}

impl Supervised {
    /// A command that runs `program`; the caller adds arguments, environment and output.
    pub fn command(python: &Python, program: &Path, stop: Stop, user: Option<User>) -> Command {
        let mut command = Command::new(python.interpreter());
        command
            .args(["-I", "-S"])
            .arg(python.supervise())
            .arg(stop.signal.as_raw().to_string())
            .arg(stop.grace.as_secs_f64().to_string())
            .arg(user.map_or_else(String::new, |User { uid, gid }| format!("{uid}:{gid}")))
            .arg(program);
        command
    }

    /// Starts the command. Its standard input is the watchdog's.
    pub fn spawn(mut command: Command, stop: Stop) -> io::Result<Self> {
        // A process group of its own: Ctrl-C at the terminal is for us, and we stop our children in order.
        let child = command.stdin(Stdio::piped()).process_group(0).spawn()?;
        Ok(Self { child, stop })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The child's own process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless the child has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let pid = Pid::from_child(&self.child);
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills the child and what it has started.
    fn kill(&mut self) {
        if self.exited().is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
    }

    /// How the child ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        if let Some(mut watchdog) = self.child.stdin.take() {
            let _ = watchdog.write_all(b".");
        }
        Some(status)
    }

    /// Asks the child to stop, waits, and kills it when its grace is over.
    pub fn stop(&mut self) {
        match self.stop.signal {
            Signal::KILL => self.kill(),
            signal => self.signal(signal),
        }
        let give_up = Instant::now() + self.stop.grace;
        while self.exited().is_none() {
            if Instant::now() > give_up {
                self.kill();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a signal to a process that is not our child.
pub fn send(pid: u32, signal: Signal) -> Result<(), Error> {
    let doing = format!("send a signal to process {pid}");
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match pid.map(|pid| kill_process(pid, signal)) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(Error::io(doing)(error.into())),
        None => Err(Error::io(doing)(io::ErrorKind::InvalidInput.into())),
    }
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
