//! A PostgreSQL of our own.

mod programs;
pub(crate) mod sql;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, getuid};
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::process::Command;

use crate::stack::error::Error;
use crate::stack::last_lines::last_lines;
use crate::stack::polling::Polling;
use crate::stack::python_environment::PythonEnvironment;
use crate::stack::random::random;
use crate::stack::run_folder::RunFolder;
use crate::stack::supervised_process::{StopSignal, SupervisedProcess, UnixUser};

/// SIGINT is PostgreSQL's "fast" shutdown: it ends sessions instead of waiting for them.
const STOP: StopSignal = StopSignal { signal: Signal::INT, grace: Duration::from_secs(10) };

const START: Polling = Polling { interval: Duration::from_millis(20), limit: Duration::from_secs(30) };

/// A login costs an unoptimized client 0.15 s at the default of 4096. The passwords are random: nobody guesses them.
const SCRAM: &str = "scram_iterations=64";

const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300",
    SCRAM,
    "io_method=sync",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "log_connections=on",
    "log_line_prefix=%m [%p] %u@%d ",
    // A statement that failed may be the one that sets a password.
    "log_min_error_statement=panic",
];

/// A running PostgreSQL: its address and its superuser.
#[derive(Clone)]
pub struct Postgres {
    /// The host, always `127.0.0.1`.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The file with the server's log.
    pub log: PathBuf,
    password: String,
}

impl Postgres {
    /// Initializes a new cluster in the folder of this run and starts it. It may not accept connections yet.
    pub(crate) async fn spawn(
        python: &PythonEnvironment,
        run: &RunFolder,
        port: u16,
    ) -> Result<(Self, SupervisedProcess), Error> {
        let user = if getuid().is_root() { Some(programs::other_user().await?) } else { None };
        let programs = programs::folder(python, user).await?;
        let data = run.path.join("postgres");
        let log_path = run.path.join("postgres.log");
        let postgres = Self { host: "127.0.0.1".into(), port, log: log_path, password: random() };
        postgres.initialize(&programs, &data, run, user).await?;

        let log = File::create(&postgres.log).map_err(Error::io("create PostgreSQL's log"))?;
        let mut command = SupervisedProcess::command(python, &programs.join("postgres"), STOP, user);
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.env_clear().env("TZ", "UTC").env("LC_ALL", "C").current_dir(&run.path);
        command.stdout(log.try_clone().map_err(Error::io("open PostgreSQL's log"))?).stderr(log);
        let server = SupervisedProcess::spawn(command, STOP).map_err(Error::io("start PostgreSQL"))?;
        Ok((postgres, server))
    }

    async fn initialize(
        &self,
        programs: &Path,
        data: &Path,
        run: &RunFolder,
        user: Option<UnixUser>,
    ) -> Result<(), Error> {
        let password_file = run.path.join("superuser");
        fs::create_dir(data).map_err(Error::io("create the data folder"))?;
        fs::write(&password_file, &self.password).map_err(Error::io("write the superuser's password"))?;
        for (path, mode) in [(data, 0o700), (password_file.as_path(), 0o600)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("protect the data folder"))?;
            if let Some(UnixUser { uid, gid }) = user {
                chown(path, Some(uid), Some(gid)).map_err(Error::io("give the data folder to another user"))?;
            }
        }
        let mut command = Command::new(programs.join("initdb"));
        command.arg("-D").arg(data).arg("--pwfile").arg(&password_file).args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--set",
            SCRAM,
            "--no-sync",
            "--no-instructions",
        ]);
        command.env_clear().env("TZ", "UTC").env("LC_ALL", "C").current_dir(&run.path);
        if let Some(UnixUser { uid, gid }) = user {
            command.uid(uid).gid(gid);
        }
        let output = programs::output(&mut command).await.map_err(Error::io("run initdb"))?;
        let _ = fs::remove_file(&password_file);
        if output.status.success() {
            return Ok(());
        }
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        fs::write(&self.log, &text).map_err(Error::io("write PostgreSQL's log"))?;
        Err(self.failed(format!("could not be initialized ({})", output.status)))
    }

    /// Waits until the superuser can log in.
    pub(crate) async fn ready(&self, server: &mut SupervisedProcess) -> Result<(), Error> {
        let mut last_error = String::new();
        let ready = START.until_async(async || match PgConnection::connect_with(&self.superuser("postgres")).await {
            Ok(connection) => Some(connection.close().await.map_err(Error::database("close a connection"))),
            Err(_) if server.exited().is_some() => Some(Err(self.failed("did not start".into()))),
            Err(error) => {
                last_error = error.to_string();
                None
            }
        });
        match ready.await {
            Some(outcome) => outcome,
            None => Err(self.failed(format!("did not answer: {last_error}"))),
        }
    }

    /// Connects as the superuser.
    pub async fn admin(&self, database: &str) -> Result<PgConnection, Error> {
        PgConnection::connect_with(&self.superuser(database))
            .await
            .map_err(Error::database("log in to PostgreSQL as its superuser"))
    }

    /// Returns the options with which a role logs in.
    pub fn options(&self, database: &str, role: &str, password: &str) -> PgConnectOptions {
        sql::connect_options(&self.host, self.port, database, role, password)
    }

    fn superuser(&self, database: &str) -> PgConnectOptions {
        self.options(database, "postgres", &self.password)
    }

    /// Returns an error that shows the end of the log.
    pub(crate) fn failed(&self, what: String) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Error::Part { part: "PostgreSQL", what, log: self.log.clone(), tail: last_lines(&log, 15) }
    }
}
