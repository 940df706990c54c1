//! A program under test, before it starts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::stack::folders::workspace;
use crate::stack::leak_detector::LeakDetector;
use crate::stack::python_environment::PythonEnvironment;
use crate::stack::supervised_process::{StopSignal, SupervisedProcess};
use crate::stack::tenant::Tenant;
use crate::testing::test_process::{ExitedProcess, TestProcess};

const STOP: StopSignal = StopSignal { signal: Signal::KILL, grace: Duration::from_secs(5) };

/// A program under test, before it starts. Its environment holds what is given here and nothing else.
#[must_use]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    python: PythonEnvironment,
    leak_detector: LeakDetector,
}

impl Launch {
    /// Prepares a program with its tenant's environment, free ports and JSON logs, and without TLS and polls,
    /// even if the configuration says otherwise.
    pub fn with_tenant(program: impl AsRef<Path>, tenant: &Tenant) -> Self {
        let mut launch = Self::new(program, tenant.python().clone(), tenant.leak_detector().clone());
        for (name, value) in tenant.env() {
            launch = launch.env(name, value);
        }
        launch
    }

    /// Does the same without a tenant, for requests that the program must reject before it needs one.
    ///
    /// # Panics
    /// If the Python environment cannot be installed.
    pub async fn without_tenant(program: impl AsRef<Path>) -> Self {
        match PythonEnvironment::install(&|step| eprintln!("devstack: {step}")).await {
            Ok(python) => Self::new(program, python, LeakDetector::default()),
            Err(error) => panic!("{}", error.report()),
        }
    }

    fn new(program: impl AsRef<Path>, python: PythonEnvironment, leak_detector: LeakDetector) -> Self {
        let mut environment = BTreeMap::new();
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                environment.insert(name.into(), value);
            }
        }
        let program = program.as_ref().into();
        Self { program, arguments: Vec::new(), environment, python, leak_detector }
            .env("APP_CONFIG_DIR", workspace().join("config"))
            .env("APP_SERVER__LISTEN", "127.0.0.1:0")
            .env("APP_ADMIN__LISTEN", "127.0.0.1:0")
            .env("APP_SERVER__TLS", "false")
            .env("APP_ADMIN__TLS", "false")
            .env("APP_SERVER__LINGER", "0s")
            // The first poll comes at a random time. Nothing but the test itself may cause a reload.
            .env("APP_SECRETS__REFRESH_EVERY", "0s")
            .env("APP_TELEMETRY__FORMAT", "json")
    }

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

    /// Lets another program start this one: the program and its arguments come after those of `parent`.
    pub fn started_by<A: Into<OsString>>(mut self, parent: impl IntoIterator<Item = A>) -> Self {
        let mut arguments = parent.into_iter().map(Into::into);
        let program = arguments.next().expect("a parent has a program");
        let mut arguments: Vec<_> = arguments.collect();
        arguments.push(std::mem::replace(&mut self.program, program.into()).into());
        arguments.append(&mut self.arguments);
        Self { arguments, ..self }
    }

    /// Starts the program.
    #[track_caller]
    pub fn start(self) -> TestProcess {
        let mut command = SupervisedProcess::command(&self.python, &self.program, STOP, None);
        command.args(self.arguments).env_clear().envs(self.environment).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = SupervisedProcess::spawn(command, STOP).expect("the virtual environment has a Python");
        TestProcess::new(child, self.leak_detector)
    }

    /// Runs the program to its end and blocks this thread. If the program needs an answer from a task of this thread's
    /// runtime, use [`Self::start`] and [`TestProcess::exited`].
    ///
    /// # Panics
    /// If the program does not end within a minute.
    #[track_caller]
    pub fn run(self) -> ExitedProcess {
        self.start().exited_blocking(Duration::from_secs(60))
    }
}
