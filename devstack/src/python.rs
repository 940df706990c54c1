use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::Error;
use crate::home::{home, lock};

const REQUIREMENTS: &str = include_str!("../requirements.txt");
const SUPERVISE: &str = include_str!("supervise.py");

/// The virtual environment that holds PostgreSQL and the secrets manager.
#[derive(Clone, Debug)]
pub struct Python {
    venv: PathBuf,
}

impl Python {
    /// Finds the environment, and makes it if it is not there or not what `requirements.txt` asks for.
    ///
    /// Any number of processes may do this at the same time. `DEVSTACK_PYTHON` names another interpreter.
    pub async fn install(progress: &(dyn Fn(&str) + Sync)) -> Result<Self, Error> {
        let interpreter = std::env::var("DEVSTACK_PYTHON").unwrap_or_else(|_| "python3".into());
        let home = home()?;
        let venv = home.join("venv");
        let stamp = venv.join("installed");
        // An upgrade changes where the environment's own Python leads to.
        let wanted = || {
            let python = venv.join("bin/python").canonicalize().unwrap_or_default();
            format!("{interpreter} {}\n{REQUIREMENTS}\n{SUPERVISE}", python.display())
        };

        let installing = lock(&home.join("venv.lock"), || progress("waiting for another installation")).await?;
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted()) {
            return Ok(Self { venv });
        }
        progress("installing PostgreSQL 18 and moto under target/ (once; about 15 s, longer beside a compiler)");
        if venv.exists() {
            fs::remove_dir_all(&venv).map_err(Error::io(format!("remove {}", venv.display())))?;
        }
        make(&interpreter, &venv, &installing).await?;
        fill(&venv, &installing).await?;
        fs::write(venv.join("supervise.py"), SUPERVISE).map_err(Error::io("write supervise.py"))?;
        fs::write(&stamp, wanted()).map_err(Error::io(format!("write {}", stamp.display())))?;
        Ok(Self { venv })
    }

    pub(crate) fn interpreter(&self) -> PathBuf {
        self.venv.join("bin/python")
    }

    /// The script that leaves a watchdog beside a child.
    pub(crate) fn supervise(&self) -> PathBuf {
        self.venv.join("supervise.py")
    }

    /// The folder that packages are installed in.
    pub(crate) fn packages(&self) -> Result<PathBuf, Error> {
        fs::read_dir(self.venv.join("lib"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|python| python.path().join("site-packages"))
            .find(|path| path.exists())
            .ok_or_else(|| Error::Python(format!("{} is damaged; remove it", self.venv.display())))
    }
}

async fn make(interpreter: &str, venv: &Path, installing: &File) -> Result<(), Error> {
    let output = holding(installing, Command::new(interpreter).args(["-m", "venv"]).arg(venv)).await.map_err(|_| {
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

async fn fill(venv: &Path, installing: &File) -> Result<(), Error> {
    let requirements = venv.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(Error::io(format!("write {}", requirements.display())))?;
    let output = holding(
        installing,
        Command::new(venv.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-input",
                "--no-compile",
                "--disable-pip-version-check",
                "--no-deps",
                "-r",
            ])
            .arg(&requirements),
    )
    .await
    .map_err(Error::io("run pip"))?;
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

/// The command holds the lock as long as it runs: it may outlive us, and must not write into our successor's work.
async fn holding(lock: &File, command: &mut Command) -> std::io::Result<Output> {
    command.stdin(lock.try_clone()?).kill_on_drop(true).output().await
}

pub(crate) async fn output(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true).output().await
}

fn tail(output: &Output) -> String {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    crate::supervised::last_lines(&said, 15)
}
