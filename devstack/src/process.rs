use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::Tenant;
use crate::home::workspace;
use crate::planted::Planted;
use crate::python::Python;
use crate::supervised::{Stop, Supervised};

const STOP: Stop = Stop { signal: Signal::KILL, grace: Duration::from_secs(5) };
const POLL: Duration = Duration::from_millis(5);

/// A program under test, before it starts. Its environment holds what is given here and nothing else.
#[must_use]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    python: Python,
    planted: Planted,
}

impl Launch {
    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable, also one that the tenant has set.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Removes a variable.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.environment.remove(&name.into());
        self
    }

    /// Starts the program.
    #[track_caller]
    pub fn start(self) -> Process {
        let mut command = Supervised::command(&self.python, &self.program, STOP, None);
        command.args(self.arguments).env_clear().envs(self.environment).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Supervised::spawn(command, STOP).expect("the virtual environment has a Python");
        let (stdout, stderr) = (child.child().stdout.take(), child.child().stderr.take());
        Process {
            child,
            stdout: Capture::start(stdout.expect("stdout is piped")),
            stderr: Capture::start(stderr.expect("stderr is piped")),
            planted: self.planted,
        }
    }

    /// Runs the program to its end, blocking this thread; a program that needs an answer from a task of this
    /// thread's runtime wants `start` and `exited`.
    #[track_caller]
    pub fn run(self) -> Exited {
        let mut process = self.start();
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = process.child.exited() {
                return process.finished(status);
            }
            if Instant::now() > give_up {
                process.fail("did not end within a minute");
            }
            thread::sleep(POLL);
        }
    }
}

/// A running program, killed when this is dropped. Its output must hold no secret of its tenant.
pub struct Process {
    child: Supervised,
    stdout: Capture,
    stderr: Capture,
    planted: Planted,
}

/// Where a service listens, as `host:port`.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// For its clients.
    pub public: String,
    /// For its operators.
    pub admin: String,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Exited {
    /// None if it was a signal.
    pub code: Option<i32>,
    /// None if it was a code.
    pub signal: Option<i32>,
    /// All of it.
    pub stdout: String,
    /// All of it.
    pub stderr: String,
}

impl Process {
    /// The service, with its tenant's environment, free ports and JSON logs, and without TLS, however it is configured.
    pub fn service(program: impl AsRef<Path>, tenant: &Tenant) -> Launch {
        let launch = Self::launch(program, tenant.python().clone(), tenant.all_planted().clone());
        tenant.env().into_iter().fold(launch, |launch, (name, value)| launch.env(name, value))
    }

    /// The service without a tenant: for what it must refuse before it asks for one.
    pub async fn bare(program: impl AsRef<Path>) -> Launch {
        let python = Python::install(&|step| eprintln!("devstack: {step}")).await;
        Self::launch(program, python.unwrap_or_else(|error| panic!("{}", error.report())), Planted::default())
    }

    fn launch(program: impl AsRef<Path>, python: Python, planted: Planted) -> Launch {
        let kept = ["PATH", "HOME", "TMPDIR"];
        let environment = kept.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
        Launch {
            program: program.as_ref().into(),
            arguments: Vec::new(),
            environment: environment.collect(),
            python,
            planted,
        }
        .env("APP_CONFIG_DIR", workspace().join("config"))
        .env("APP_SERVER__LISTEN", "127.0.0.1:0")
        .env("APP_ADMIN__LISTEN", "127.0.0.1:0")
        .env("APP_SERVER__TLS", "false")
        .env("APP_ADMIN__TLS", "false")
        .env("APP_SERVER__LINGER", "0s")
        .env("APP_TELEMETRY__FORMAT", "json")
    }

    /// The program's own process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.exited().is_none()
    }

    /// Waits for a line on stdout or stderr, also one that was written before.
    ///
    /// # Panics
    /// With the output so far if the line does not come in time, or the program ends without it.
    #[track_caller]
    pub fn wait_for_line(&mut self, wanted: impl Fn(&str) -> bool, timeout: Duration) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            let give_up = Instant::now() + timeout;
            loop {
                // Asked for before looking: what was written before the end has been read by then.
                let ended = !self.is_running() && self.stdout.ended() && self.stderr.ended();
                if let Some(line) = self.lines().into_iter().find(|line| wanted(line)) {
                    return line;
                }
                if ended {
                    self.fail(&format!("ended without the line that {caller} waits for"));
                }
                if Instant::now() > give_up {
                    self.fail(&format!("did not write the line that {caller} waits for within {timeout:?}"));
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Waits until the service says that it listens.
    #[track_caller]
    pub fn listening(&mut self) -> impl Future<Output = Addresses> {
        let says = |line: &str| serde_json::from_str(line).is_ok_and(|e: Value| e["fields"]["message"] == "listening");
        let line = self.wait_for_line(says, Duration::from_secs(30));
        async move {
            let event: Value = serde_json::from_str(&line.await).expect("it was parsed just now");
            let address = |name: &str| event["fields"][name].as_str().map_or_else(String::new, Into::into);
            Addresses { public: address("server.address"), admin: address("admin.address") }
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// With the output so far if it does not come in time; or if a secret is in the output.
    #[track_caller]
    pub fn exited(mut self, timeout: Duration) -> impl Future<Output = Exited> {
        let caller = std::panic::Location::caller();
        async move {
            let give_up = Instant::now() + timeout;
            loop {
                if let Some(status) = self.child.exited() {
                    return self.finished(status);
                }
                if Instant::now() > give_up {
                    self.fail(&format!("did not end within {timeout:?}, as {caller} expects"));
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// The log events on stdout so far.
    pub fn events(&self) -> Vec<Value> {
        self.stdout.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Everything on stdout and then on stderr so far.
    pub fn output(&self) -> String {
        self.lines().join("\n")
    }

    fn lines(&self) -> Vec<String> {
        [self.stdout.lines(), self.stderr.lines()].concat()
    }

    fn finished(mut self, status: ExitStatus) -> Exited {
        self.stdout.finish();
        self.stderr.finish();
        let (stdout, stderr) = (self.stdout.lines().join("\n"), self.stderr.lines().join("\n"));
        Exited { code: status.code(), signal: status.signal(), stdout, stderr }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("the program {what}; its output:\n{}", self.planted.redact(&self.output()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.stop();
        self.stdout.finish();
        self.stderr.finish();
        if !thread::panicking() {
            self.planted.assert_absent("stdout", &self.stdout.lines().join("\n"));
            self.planted.assert_absent("stderr", &self.stderr.lines().join("\n"));
        }
    }
}

/// The lines of one stream.
struct Capture {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn start(stream: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { lines, reader: Some(reader) }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Reads to the end, which a grandchild of the program could put off.
    fn finish(&mut self) {
        let give_up = Instant::now() + Duration::from_secs(5);
        while !self.ended() && Instant::now() < give_up {
            thread::sleep(POLL);
        }
    }
}
