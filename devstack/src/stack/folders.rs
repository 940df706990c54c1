//! The folders in which the stack keeps its files.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, Permissions};
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::getuid;

use crate::stack::error::Error;

/// Returns the root of the workspace in which Cargo runs us. Without Cargo, it is the current folder.
pub fn workspace() -> PathBuf {
    // This crate can be a dependency from elsewhere, so the folder in which it was compiled says nothing.
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => workspace_of(Path::new(&package)).to_path_buf(),
        None => std::env::current_dir().unwrap_or_else(|_| ".".into()),
    }
}

/// Returns the root of a package's workspace. Cargo finds it in the same way: it is the closest folder whose manifest has
/// a `[workspace]`. Without one, the package is a workspace of its own.
fn workspace_of(package: &Path) -> &Path {
    package.ancestors().find(|folder| is_workspace(folder)).unwrap_or(package)
}

fn is_workspace(folder: &Path) -> bool {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let mut lines = manifest.lines().map(str::trim_start);
    lines.any(|line| line.starts_with("[workspace]") || line.starts_with("[workspace."))
}

/// Returns the folder of files that outlive a run, `target/devstack`. Creates it if necessary.
pub fn home() -> Result<PathBuf, Error> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let home = workspace().join(target).join("devstack");
    fs::create_dir_all(&home).map_err(Error::io(format!("create {}", home.display())))?;
    Ok(home)
}

/// Returns a folder that other users may enter. Creates it if necessary.
///
/// It is [`home`] unless we are root. PostgreSQL does not run as root, and the user that runs it instead can seldom
/// enter root's folders.
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
    if fs::create_dir(&public).is_ok() {
        fs::set_permissions(&public, Permissions::from_mode(0o755)).map_err(Error::io(doing))?;
        return Ok(public);
    }
    let found = fs::symlink_metadata(&public).map_err(Error::io(doing))?;
    // Anybody can guess the name, and we run the programs in there.
    if !found.is_dir() || found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(Error::Io {
            doing: format!("use {}: somebody else made it", public.display()),
            source: ErrorKind::PermissionDenied.into(),
        });
    }
    Ok(public)
}

/// Returns true if every user may enter the folder and all folders above it.
fn everyone_may_enter(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    path.ancestors().all(|part| fs::metadata(part).is_ok_and(|found| found.mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::random::random;

    #[test]
    fn a_lock_file_inside_of_a_member_does_not_make_it_a_workspace() {
        let root = std::env::temp_dir().join(random());
        let (member, alone) = (root.join("workspace/member"), root.join("alone"));
        for (folder, manifest) in [
            (root.join("workspace"), "[package]\nname = \"root\"\n\n[workspace]\n"),
            (member.clone(), "[package]\nname = \"member\"\nedition.workspace = true\n"),
            (alone.clone(), "[package]\nname = \"alone\"\n"),
        ] {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("Cargo.toml"), manifest).unwrap();
            fs::write(folder.join("Cargo.lock"), "").unwrap();
        }
        let found = [workspace_of(&member).to_owned(), workspace_of(&alone).to_owned()];
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, [root.join("workspace"), alone]);
    }
}
