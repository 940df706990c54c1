//! The folder of one run of the stack.

use std::fs::{self, DirEntry, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::stack::error::Error;
use crate::stack::file_lock::lock_file;
use crate::stack::folders::public_home;
use crate::stack::random::random;

/// The folder of one run, which is removed when this is dropped. The next run removes those of runs that were killed.
#[derive(Debug)]
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
    kept: bool,
    /// Shows other runs that this one is alive.
    _lock: File,
}

impl RunFolder {
    /// Creates the folder, and removes those of dead runs.
    pub(crate) async fn create() -> Result<Self, Error> {
        let runs = public_home()?.join("runs");
        let path = runs.join(random());
        let doing = format!("create {}", path.display());
        fs::create_dir_all(&runs).map_err(Error::io(&doing))?;
        // A new folder looks like a dead one until it is locked.
        let _creating = lock_file(&runs.join("lock"), || ()).await?;
        for entry in fs::read_dir(&runs).into_iter().flatten().flatten() {
            if is_dead(&entry) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        fs::create_dir(&path).map_err(Error::io(&doing))?;
        for folder in [&runs, &path] {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(Error::io(&doing))?;
        }
        let lock = lock_file(&path.join("lock"), || ()).await?;
        Ok(Self { path, kept: false, _lock: lock })
    }

    /// Leaves the folder, and so the logs, for people to read until the next run.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Returns true if the run that owned a folder has ended.
fn is_dead(entry: &DirEntry) -> bool {
    match File::open(entry.path().join("lock")) {
        Ok(lock) => lock.try_lock().is_ok(),
        // An earlier run was killed while it removed this folder.
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}
