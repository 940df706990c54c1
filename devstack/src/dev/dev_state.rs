//! The state that a running `cargo dev` publishes for other commands: `target/devstack/state.json`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::dev::error::DevError;
use crate::dev::secrets_manager::ManagerPlace;
use crate::stack::database_address::DatabaseAddress;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::folders::{home, workspace};

/// The state of a running `cargo dev`. It holds no secret.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct DevState {
    pub(crate) pid: u32,
    /// The workspace in which it runs. Several may share a target folder, and so this state.
    pub(crate) workspace: PathBuf,
    /// Seconds since 1970.
    pub(crate) since: u64,
    /// `None` until the service is ready.
    pub(crate) running: Option<RunningStack>,
}

/// The addresses, the credentials and the processes of a `cargo dev` that is ready.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RunningStack {
    /// The URL of the public listener, such as `https://127.0.0.1:8080`.
    pub(crate) public: String,
    /// The URL of the admin listener.
    pub(crate) admin: String,
    #[serde(flatten)]
    pub(crate) manager: ManagerPlace,
    /// The URL of the issuer of tokens. `None` if the service needs no tokens.
    pub(crate) issuer: Option<String>,
    pub(crate) database: DatabaseAddress,
    pub(crate) credentials: Vec<DeclaredCredential>,
    /// The service's binary.
    pub(crate) program: PathBuf,
    /// The variables with which the service finds its stack.
    pub(crate) environment: Vec<(String, String)>,
    /// The other settings of the service: variables of the user that started it.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) pids: StackPids,
}

/// The process ids of the service and of its stack.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StackPids {
    /// `None` if the service runs elsewhere.
    pub(crate) service: Option<u32>,
    pub(crate) postgres: u32,
    pub(crate) manager: u32,
}

impl DevState {
    /// Returns the state of this process.
    pub(crate) fn of_this_process(since: u64, running: Option<RunningStack>) -> Self {
        Self { pid: std::process::id(), workspace: this_workspace(), since, running }
    }

    /// Returns the running stack, or an error if the service is not ready yet.
    pub(crate) fn ready(&self) -> Result<&RunningStack, DevError> {
        self.running.as_ref().ok_or_else(|| DevError::new(format!("it is not ready yet: {}", self.describe())))
    }

    /// Returns true if it is the state of this workspace.
    pub(crate) fn is_of_this_workspace(&self) -> bool {
        self.workspace == this_workspace()
    }

    /// Describes the process in one line.
    pub(crate) fn describe(&self) -> String {
        let minutes = unix_time().saturating_sub(self.since) / 60;
        let progress = match &self.running {
            Some(RunningStack { public, admin, .. }) => format!("serving on {public}, admin {admin}"),
            None => "still starting".into(),
        };
        format!("process {} in {}, for {minutes} min, {progress}", self.pid, self.workspace.display())
    }

    /// Reads the published state. Its process may be dead.
    pub(crate) fn read() -> Option<Self> {
        serde_json::from_slice(&fs::read(path_in_home("state.json").ok()?).ok()?).ok()
    }

    /// Publishes the state.
    pub(crate) fn write(&self) -> Result<(), DevError> {
        let text = serde_json::to_vec_pretty(self).expect("numbers and strings are always JSON");
        let (path, new) = (path_in_home("state.json")?, path_in_home("state.json.new")?);
        // Renamed into place, so that nobody reads half of it.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| DevError::new(format!("cannot write {}: {error}", path.display())))
    }

    /// Removes the published state.
    pub(crate) fn remove() {
        if let Ok(path) = path_in_home("state.json") {
            let _ = fs::remove_file(path);
        }
    }
}

fn this_workspace() -> PathBuf {
    let workspace = workspace();
    workspace.canonicalize().unwrap_or(workspace)
}

/// Returns the path of a file in the folder of the stack.
pub(crate) fn path_in_home(name: &str) -> Result<PathBuf, DevError> {
    Ok(home()?.join(name))
}

/// Returns the seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
