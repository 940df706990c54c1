//! A program under test, while it runs and after it.

use std::os::unix::process::ExitStatusExt;
use std::panic::Location;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::stack::leak_detector::LeakDetector;
use crate::stack::polling::Polling;
use crate::stack::supervised_process::SupervisedProcess;
use crate::testing::captured_output::{CapturedOutput, Reading};
use crate::testing::eventually::DEFAULT_TIMEOUT;

const INTERVAL: Duration = Duration::from_millis(5);

/// A running program, which is killed when this is dropped. Its output must hold no secret of its tenant.
pub struct TestProcess {
    child: SupervisedProcess,
    stdout: CapturedOutput,
    stderr: CapturedOutput,
    leak_detector: LeakDetector,
}

/// The addresses on which a service listens, as `host:port`.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The listener for clients.
    pub public: String,
    /// The listener for operators.
    pub admin: String,
}

/// The result of a program that has ended.
#[derive(Clone, Debug)]
pub struct ExitedProcess {
    /// The exit code. `None` if a signal ended the program.
    pub code: Option<i32>,
    /// The signal that ended the program, if any.
    pub signal: Option<i32>,
    /// The whole standard output.
    pub stdout: String,
    /// The whole standard error.
    pub stderr: String,
}

impl TestProcess {
    /// Begins to read the output of a child, whose stdout and stderr are pipes.
    pub(super) fn new(mut child: SupervisedProcess, leak_detector: LeakDetector) -> Self {
        let stdout = child.child().stdout.take().expect("stdout is piped");
        let stderr = child.child().stderr.take().expect("stderr is piped");
        Self { child, stdout: CapturedOutput::start(stdout), stderr: CapturedOutput::start(stderr), leak_detector }
    }

    /// Returns the program's own process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends a signal if the program still runs.
    pub fn signal(&mut self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Returns true if the program still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.exited().is_none()
    }

    /// Reads no more of stdout until [`Self::resume_stdout`], and leaves it open. Some lines may be read before that.
    pub fn pause_stdout(&self) {
        self.stdout.set(Reading::Paused);
    }

    /// Reads stdout again.
    pub fn resume_stdout(&self) {
        self.stdout.set(Reading::Goes);
    }

    /// Closes stdout after the next line.
    pub fn close_stdout(&self) {
        self.stdout.set(Reading::Ends);
    }

    /// Waits for a line on stdout or stderr, also one that was written before.
    ///
    /// # Panics
    /// If the line does not come in time, or if the program ends without it. The message holds the output so far.
    #[track_caller]
    pub fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool, timeout: Duration) -> impl Future<Output = String> {
        let caller = Location::caller();
        async move {
            let found = Polling { interval: INTERVAL, limit: timeout }.until(|| {
                // Before the search: if the output has ended now, the search sees all of it.
                let ended = !self.is_running() && self.stdout.ended() && self.stderr.ended();
                let line = self.lines().into_iter().find(|line| wanted(line));
                if line.is_none() && ended {
                    self.fail(&format!("ended without the line that {caller} waits for"));
                }
                line
            });
            match found.await {
                Some(line) => line,
                None => self.fail(&format!("did not write the line that {caller} waits for within {timeout:?}")),
            }
        }
    }

    /// Waits until the service logs that it listens.
    ///
    /// # Panics
    /// If that does not happen within 30 s.
    #[track_caller]
    pub fn listening(&mut self) -> impl Future<Output = Addresses> {
        let line = self.wait_for_line(|line| listening_event(line).is_some(), DEFAULT_TIMEOUT);
        async move { listening_event(&line.await).expect("the line was parsed just now") }
    }

    /// Waits for the end of the program.
    ///
    /// # Panics
    /// If the program does not end in time; the message holds the output so far. Also if the output holds a secret.
    #[track_caller]
    pub fn exited(mut self, timeout: Duration) -> impl Future<Output = ExitedProcess> {
        let caller = Location::caller();
        async move {
            let polling = Polling { interval: INTERVAL, limit: timeout };
            match polling.until(|| self.child.exited()).await {
                Some(status) => self.finish(status),
                None => self.fail(&format!("did not end within {timeout:?}, as {caller} expects")),
            }
        }
    }

    /// Does the same as [`Self::exited`], and blocks this thread.
    #[track_caller]
    pub(super) fn exited_blocking(mut self, timeout: Duration) -> ExitedProcess {
        let polling = Polling { interval: INTERVAL, limit: timeout };
        match polling.until_blocking(|| self.child.exited()) {
            Some(status) => self.finish(status),
            None => self.fail(&format!("did not end within {timeout:?}")),
        }
    }

    /// Returns the log events on stdout so far.
    pub fn events(&self) -> Vec<Value> {
        self.stdout.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Returns everything on stdout and then on stderr so far.
    pub fn output(&self) -> String {
        self.lines().join("\n")
    }

    fn lines(&self) -> Vec<String> {
        [self.stdout.lines(), self.stderr.lines()].concat()
    }

    fn finish(self, status: ExitStatus) -> ExitedProcess {
        self.resume_stdout();
        self.stdout.wait_for_end();
        self.stderr.wait_for_end();
        let (stdout, stderr) = (self.stdout.lines().join("\n"), self.stderr.lines().join("\n"));
        ExitedProcess { code: status.code(), signal: status.signal(), stdout, stderr }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        panic!("the program {what}; its output:\n{}", self.leak_detector.redact(&self.output()))
    }
}

impl Drop for TestProcess {
    fn drop(&mut self) {
        self.child.stop();
        self.resume_stdout();
        self.stdout.wait_for_end();
        self.stderr.wait_for_end();
        if !thread::panicking() {
            self.leak_detector.assert_secret_free("stdout", &self.stdout.lines().join("\n"));
            self.leak_detector.assert_secret_free("stderr", &self.stderr.lines().join("\n"));
        }
    }
}

/// Returns the addresses if a line is the log event that names them.
fn listening_event(line: &str) -> Option<Addresses> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fields = &event["fields"];
    if fields["message"] != "listening" {
        return None;
    }
    let address = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
    Some(Addresses { public: address("server.address"), admin: address("admin.address") })
}
