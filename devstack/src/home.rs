use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, Permissions, TryLockError};
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::getuid;

use crate::Error;

/// The root of the workspace that Cargo runs us in; without Cargo, of the one that this crate was compiled in. They differ
/// where two workspaces share a target folder.
pub fn workspace() -> PathBuf {
    let compiled = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let found =
        package.iter().flat_map(|package| package.ancestors()).find(|root| root.join("devstack/Cargo.toml").exists());
    found.or(compiled.parent()).unwrap_or(compiled).to_path_buf()
}

/// Where the stack keeps what outlives a run: `target/devstack`.
pub fn home() -> Result<PathBuf, Error> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let home = workspace().join(target).join("devstack");
    fs::create_dir_all(&home).map_err(Error::io(format!("create {}", home.display())))?;
    Ok(home)
}

/// Where other users may look in: `home`, unless we are root, for PostgreSQL does not run as root and whoever runs
/// it instead can seldom look into root's folders.
pub(crate) fn public_home() -> Result<PathBuf, Error> {
    let home = home()?;
    if !getuid().is_root() {
        return Ok(home);
    }
    let mut hasher = DefaultHasher::new();
    home.hash(&mut hasher);
    let name = format!("devstack-{:016x}", hasher.finish());
    let temporary = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    let parent = temporary.iter().find(|path| everyone_may_enter(path)).unwrap_or(&temporary[0]);
    let public = parent.join(name);
    let doing = format!("create {}", public.display());
    match fs::create_dir(&public) {
        Ok(()) => fs::set_permissions(&public, Permissions::from_mode(0o755)).map_err(Error::io(doing))?,
        Err(_) => {
            let found = fs::symlink_metadata(&public).map_err(Error::io(doing))?;
            // The name can be guessed, and what lies in there is run.
            if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 {
                return Err(Error::Io {
                    doing: format!("use {}: somebody else made it", public.display()),
                    source: ErrorKind::PermissionDenied.into(),
                });
            }
        }
    }
    Ok(public)
}

fn everyone_may_enter(path: &Path) -> bool {
    path.canonicalize()
        .is_ok_and(|path| path.ancestors().all(|part| fs::metadata(part).is_ok_and(|found| found.mode() & 0o001 != 0)))
}

/// Waits for the lock on `path`, calling `waiting` once if another process holds it.
pub(crate) async fn lock(path: &Path, waiting: impl FnOnce()) -> Result<File, Error> {
    let doing = || format!("lock {}", path.display());
    let file = File::options().create(true).append(true).open(path).map_err(Error::io(doing()))?;
    let mut waiting = Some(waiting);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(Error::io(doing())(error)),
            Err(TryLockError::WouldBlock) => {
                if let Some(tell) = waiting.take() {
                    tell();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The folder of one run of the stack, gone with it. Those of runs that were killed go when the next one starts.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) dir: PathBuf,
    kept: bool,
    _held: File,
}

impl Run {
    pub(crate) async fn start() -> Result<Self, Error> {
        let runs = public_home()?.join("runs");
        let dir = runs.join(crate::planted::random());
        let doing = || format!("create {}", dir.display());
        fs::create_dir_all(&runs).map_err(Error::io(doing()))?;
        // Between its making and its locking a new folder looks like a dead one.
        let _sweeping = lock(&runs.join("lock"), || ()).await?;
        for old in fs::read_dir(&runs).into_iter().flatten().flatten() {
            let dead = match File::open(old.path().join("lock")) {
                Ok(held) => held.try_lock().is_ok(),
                // Whoever removed it was not done.
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            if dead {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        fs::create_dir(&dir).map_err(Error::io(doing()))?;
        for folder in [&runs, &dir] {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(Error::io(doing()))?;
        }
        let held = lock(&dir.join("lock"), || ()).await?;
        Ok(Self { dir, kept: false, _held: held })
    }

    /// Leaves the folder, and so the logs, for people to read until the next run.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
