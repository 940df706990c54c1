use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use devstack::DatabaseAddress;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::project::Credential;

/// What a running `cargo dev` tells others. No secret is in it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct State {
    pub(crate) pid: u32,
    /// Seconds since 1970.
    pub(crate) since: u64,
    /// Unknown until the service runs.
    pub(crate) running: Option<Running>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Running {
    /// `https://127.0.0.1:8080`, say.
    pub(crate) public: String,
    pub(crate) admin: String,
    pub(crate) manager: String,
    pub(crate) database: DatabaseAddress,
    pub(crate) credentials: Vec<Credential>,
    pub(crate) program: PathBuf,
    /// What leads the program to its stack.
    pub(crate) environment: Vec<(String, String)>,
    /// How it was configured beside that: the variables of whoever started it.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) pids: Pids,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Pids {
    /// None where it runs elsewhere.
    pub(crate) service: Option<u32>,
    pub(crate) postgres: u32,
    pub(crate) manager: u32,
}

/// The right to be the one `cargo dev` of this workspace.
pub(crate) struct Held {
    since: u64,
    _lock: File,
}

impl Held {
    /// Takes it, or says who has it.
    pub(crate) fn take() -> Result<Self, Failure> {
        let lock = lock()?;
        match lock.try_lock() {
            Ok(()) => {
                let held = Self { since: now(), _lock: lock };
                held.publish(None)?;
                Ok(held)
            }
            Err(TryLockError::WouldBlock) => Err(Failure::new(match read() {
                Some(state) => format!("another one runs already: {}", state.describe()),
                None => "another one runs already".into(),
            })),
            Err(TryLockError::Error(error)) => Err(Failure::new(format!("cannot lock: {error}"))),
        }
    }

    pub(crate) fn publish(&self, running: Option<Running>) -> Result<(), Failure> {
        let state = State { pid: std::process::id(), since: self.since, running };
        let text = serde_json::to_vec_pretty(&state).expect("numbers and strings are always JSON");
        let (path, new) = (path("state.json")?, path("state.json.new")?);
        // Renamed into place, so that nobody reads half of it.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        forget();
    }
}

/// Removes what [`Held`] published.
pub(crate) fn forget() {
    if let Ok(path) = path("state.json") {
        let _ = fs::remove_file(path);
    }
}

/// What the `cargo dev` of this workspace has published, if one runs.
pub(crate) fn find() -> Result<State, Failure> {
    let nobody = || Failure::new("none runs in this workspace; start one with `cargo dev`");
    // Whoever was killed could not remove its state, but holds no lock.
    match lock()?.try_lock() {
        Err(TryLockError::WouldBlock) => read().ok_or_else(nobody),
        _ => Err(nobody()),
    }
}

impl State {
    /// The service that serves.
    pub(crate) fn running(&self) -> Result<&Running, Failure> {
        self.running.as_ref().ok_or_else(|| Failure::new(format!("it is not ready yet: {}", self.describe())))
    }

    pub(crate) fn describe(&self) -> String {
        let minutes = now().saturating_sub(self.since) / 60;
        let Self { pid, running, .. } = self;
        let place = match running {
            Some(Running { public, admin, .. }) => format!("serving on {public}, admin {admin}"),
            None => "still starting".into(),
        };
        format!("process {pid}, for {minutes} min, {place}")
    }
}

fn read() -> Option<State> {
    serde_json::from_slice(&fs::read(path("state.json").ok()?).ok()?).ok()
}

fn lock() -> Result<File, Failure> {
    let path = path("dev.lock")?;
    let opened = File::options().create(true).append(true).open(&path);
    opened.map_err(|error| Failure::new(format!("cannot open {}: {error}", path.display())))
}

fn path(name: &str) -> Result<PathBuf, Failure> {
    Ok(devstack::home()?.join(name))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
