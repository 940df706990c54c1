//! The lock that allows one `cargo dev` per target folder.

use std::fs::{File, TryLockError};

use crate::dev::dev_state::{DevState, RunningStack, path_in_home, unix_time};
use crate::dev::error::DevError;

/// The remedy if two workspaces share a target folder.
const OWN_FOLDER: &str = "stop it, or set CARGO_TARGET_DIR to another folder";

/// The right to be the one `cargo dev` of this target folder, and to publish its state.
pub(crate) struct DevLock {
    since: u64,
    _file: File,
}

impl DevLock {
    /// Takes the lock. If another process has it, the error describes that process.
    pub(crate) fn take() -> Result<Self, DevError> {
        let file = open()?;
        match file.try_lock() {
            Ok(()) => {
                let lock = Self { since: unix_time(), _file: file };
                lock.publish(None)?;
                Ok(lock)
            }
            Err(TryLockError::WouldBlock) => Err(DevError::new(match DevState::read() {
                Some(state) if state.is_of_this_workspace() => {
                    format!("another one runs already: {}", state.describe())
                }
                Some(state) => format!("another one runs in this target folder: {}; {OWN_FOLDER}", state.describe()),
                None => "another one runs already".into(),
            })),
            Err(TryLockError::Error(error)) => Err(DevError::new(format!("cannot lock: {error}"))),
        }
    }

    /// Publishes the state of this process.
    pub(crate) fn publish(&self, running: Option<RunningStack>) -> Result<(), DevError> {
        DevState::of_this_process(self.since, running).write()
    }
}

impl Drop for DevLock {
    fn drop(&mut self) {
        DevState::remove();
    }
}

/// Returns the state of the `cargo dev` that runs in this workspace.
pub(crate) fn find_running() -> Result<DevState, DevError> {
    // A killed process could not remove its state, but no longer has the lock.
    let is_locked = matches!(open()?.try_lock(), Err(TryLockError::WouldBlock));
    let state = if is_locked { DevState::read() } else { None };
    match state {
        Some(state) if state.is_of_this_workspace() => Ok(state),
        Some(state) => Err(DevError::new(format!(
            "none runs in this workspace, but another one in this target folder: {}; {OWN_FOLDER}",
            state.describe()
        ))),
        None => Err(DevError::new("none runs in this workspace; start one with `cargo dev`")),
    }
}

fn open() -> Result<File, DevError> {
    let path = path_in_home("dev.lock")?;
    let opened = File::options().create(true).append(true).open(&path);
    opened.map_err(|error| DevError::new(format!("cannot open {}: {error}", path.display())))
}
