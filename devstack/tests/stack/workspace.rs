//! A workspace with a fake cargo and a fake service, and `cargo dev` in it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use devstack::Polling;
use serde_json::Value;

/// The metadata of the fake package: the requests that the fake service answers.
const METADATA: &str = r#"{"devstack": {"get": "/v1/things?all=1",
    "post": {"path": "/v1/thing", "body": "{\"is\": \"Bob's\"}"}}}"#;

/// Sections `[databases.SECTION]` of the fake service. Its `[database]` is at the same address as `reader` and `writer`.
pub(crate) const SECTIONS: &str = r#"{
    "reader": {"host": "db.example", "port": 5432, "name": "fake"},
    "replica": {"host": "replica.example", "port": 5432, "name": "fake"},
    "writer": {"host": "db.example", "port": 5432, "name": "fake"},
    "elsewhere": {"host": "elsewhere.example", "port": 5432, "name": "fake"},
    "reports": {"host": "db.example", "port": 5432, "name": "reports"}}"#;

/// A target folder of its own, with a link to the installed Python environment, and the addresses of its service.
pub(crate) struct Workspace {
    pub(crate) target: PathBuf,
    pub(crate) public: String,
    pub(crate) admin: String,
    /// Additional variables.
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// A running `cargo dev`.
pub(crate) struct RunningDev {
    pub(crate) child: Child,
    stderr: Option<JoinHandle<String>>,
}

impl Workspace {
    pub(crate) fn new(name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(target.join("devstack"))?;
        std::fs::create_dir_all(target.join("config"))?;
        let venv = target.join("devstack/venv");
        let _ = std::fs::remove_file(&venv);
        symlink(devstack::home()?.join("venv"), venv)?;
        let free = || format!("127.0.0.1:{}", devstack::free_port());
        Ok(Self { target, public: free(), admin: free(), variables: Vec::new() })
    }

    /// Prepares `cargo dev` with these arguments.
    pub(crate) fn dev(&self, arguments: &[&str]) -> Command {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stack");
        let mut command = Command::new(env!("CARGO_BIN_EXE_devstack"));
        command
            .args(arguments)
            .env("CARGO", here.join("fake_cargo.sh"))
            .env("CARGO_TARGET_DIR", &self.target)
            .env("FAKE_SERVICE", here.join("fake_service.py"))
            .env("FAKE_METADATA", METADATA)
            .env("FAKE_PUBLIC", &self.public)
            .env("FAKE_ADMIN", &self.admin)
            .env("PGHOST", "elsewhere")
            .env("AWS_PROFILE", "mine")
            .env("APP_CONFIG_DIR", self.target.join("config"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Prepares `cargo dev stack` with PostgreSQL and the secrets manager on these ports.
    pub(crate) fn stack(&self, ports: [u16; 2]) -> Command {
        let service = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stack/fake_service.py");
        let [postgres, manager] = ports.map(|port| port.to_string());
        self.dev(&["stack", service, "--postgres", &postgres, "--manager", &manager])
    }

    /// Starts `cargo dev`, and waits until it is ready.
    pub(crate) fn up(&self) -> Result<RunningDev, std::io::Error> {
        Self::up_as(self.dev(&[]))
    }

    /// Does the same with another command.
    pub(crate) fn up_as(mut command: Command) -> Result<RunningDev, std::io::Error> {
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut printed = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            printed += &format!("{line}\n");
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        let stderr = std::thread::spawn(move || {
            printed.extend(lines.map_while(Result::ok).map(|line| format!("{line}\n")));
            printed
        });
        Ok(RunningDev { child, stderr: Some(stderr) })
    }

    /// Reads the published state.
    pub(crate) fn state(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.target.join("devstack/state.json")).ok()?).ok()
    }

    /// Runs `cargo dev` with these arguments to its end. Returns its code and its output.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<(Option<i32>, String), std::io::Error> {
        let output = self.dev(arguments).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
    }

    /// Does the same as [`Self::run`], and calls `action` with the process id once a line of stdout contains `text`.
    pub(crate) fn run_until(
        &self,
        arguments: &[&str],
        text: &str,
        action: impl FnOnce(u32) -> Result<(), devstack::Error>,
    ) -> Result<(Option<i32>, String), Box<dyn std::error::Error>> {
        let mut child = self.dev(arguments).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let mut printed = String::new();
        let mut pending_action = Some(action);
        for line in &mut lines {
            if line.contains(text)
                && let Some(action) = pending_action.take()
            {
                action(child.id())?;
            }
            printed += &format!("{line}\n");
        }
        let output = child.wait_with_output()?;
        printed += &String::from_utf8_lossy(&output.stderr);
        assert!(pending_action.is_none(), "it never printed `{text}`: {printed}");
        Ok((output.status.code(), printed))
    }
}

impl RunningDev {
    /// Waits for the end. Returns the status and the output. Kills the process after 20 s.
    pub(crate) fn ends(mut self) -> Result<(ExitStatus, String), Box<dyn std::error::Error>> {
        let polling = Polling { interval: Duration::from_millis(20), limit: Duration::from_secs(20) };
        polling.until_blocking(|| self.child.try_wait().transpose()).transpose()?;
        let _ = self.child.kill();
        let status = self.child.wait()?;
        let mut stdout = String::new();
        self.child.stdout.take().expect("it is piped").read_to_string(&mut stdout)?;
        let stderr = self.stderr.take().and_then(|reader| reader.join().ok());
        Ok((status, stdout + &stderr.expect("reading does not panic")))
    }
}

/// A failed test, too, leaves nothing behind.
impl Drop for RunningDev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
