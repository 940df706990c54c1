//! The services of the comparison: how to get them, and how to start them.

use crate::support::server::Server;
use devstack::{Binary, Tenant, free_port, home, workspace};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PROGRAM: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));

/// The example. It migrates the databases of all three.
pub(crate) static EXAMPLE: Binary = Binary::at(PROGRAM);

/// A service of the comparison.
pub(crate) enum Service {
    /// The example.
    Vestibule,
    /// The program of the service in Go.
    Go(PathBuf),
    /// The interpreter that has what the service in Python needs.
    Python(PathBuf),
}

impl Service {
    /// Returns all services, the example first. Builds them if necessary, or returns the reason why it cannot.
    pub(crate) fn all() -> Result<[Self; 3], String> {
        Ok([Self::Vestibule, Self::Go(build_go()?), Self::Python(install_python()?)])
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Vestibule => "Vestibule",
            Self::Go(_) => "Go",
            Self::Python(_) => "Python",
        }
    }

    /// Starts the service with the manager at this address. Returns it, and the time until it accepts connections.
    pub(crate) async fn start_at(&self, tenant: &Tenant, manager: &str, tls: bool) -> (Server, Duration) {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = match self {
            Self::Vestibule => our_command(tenant, address, tls),
            Self::Go(program) => peer_command(program, tenant, address, tls),
            Self::Python(interpreter) => {
                let mut command = peer_command(interpreter, tenant, address, tls);
                command.arg(folder("python").join("main.py"));
                command
            }
        };
        command.env("AWS_ENDPOINT_URL", manager);
        Server::start(command, address).await
    }

    /// Starts the service without TLS.
    pub(crate) async fn start(&self, tenant: &Tenant) -> Server {
        self.start_at(tenant, &tenant.emulator().endpoint, false).await.0
    }
}

fn our_command(tenant: &Tenant, address: SocketAddr, tls: bool) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(tenant.env()).envs([
        ("TOKIO_WORKER_THREADS", "1".into()),
        ("APP_CONFIG_DIR", workspace().join("config").display().to_string()),
        ("APP_SERVER__LISTEN", address.to_string()),
        ("APP_ADMIN__LISTEN", "127.0.0.1:0".into()),
        ("APP_SERVER__TLS", tls.to_string()),
        ("APP_SERVER__CLIENT_CA", if tls { tenant.id("client_ca") } else { String::new() }),
        ("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook")),
    ]);
    command
}

fn peer_command(program: &Path, tenant: &Tenant, address: SocketAddr, tls: bool) -> Command {
    let database = tenant.database();
    let compiled = target().join("peers-compiled");
    let mut command = Command::new(program);
    command.env_clear().envs(tenant.env()).envs([
        ("GOMAXPROCS", "1".into()),
        ("PYTHONPYCACHEPREFIX", compiled.display().to_string()),
        ("LISTEN", address.to_string()),
        ("DATABASE_HOST", database.host),
        ("DATABASE_PORT", database.port.to_string()),
        ("DATABASE_NAME", database.name),
        ("SECRETS_PREFIX", tenant.prefix().into()),
        ("TLS", tls.to_string()),
    ]);
    command
}

/// Builds the service in Go. Returns its path.
fn build_go() -> Result<PathBuf, String> {
    let program = target().join("peers-go");
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&program).arg(".").current_dir(folder("go"));
    run(&mut command, "install Go from https://go.dev/dl")?;
    Ok(program)
}

/// Installs what the service in Python needs. Returns the interpreter.
fn install_python() -> Result<PathBuf, String> {
    let (folder, environment) = (folder("python"), target().join("peers-python"));
    let (requirements, installed) = (folder.join("requirements.txt"), environment.join("installed"));
    let interpreter = environment.join("bin/python");
    let wanted = fs::read_to_string(&requirements).map_err(|error| error.to_string())?;
    if fs::read_to_string(&installed).is_ok_and(|found| found == wanted) {
        return Ok(interpreter);
    }
    let remedy = "install Python 3.11 or later with its module venv";
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment), remedy)?;
    let mut install = Command::new(&interpreter);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
    ]);
    run(install.args(["--require-hashes", "-r"]).arg(&requirements), remedy)?;
    fs::write(installed, wanted).map_err(|error| error.to_string())?;
    Ok(interpreter)
}

/// Runs a command to its end.
fn run(command: &mut Command, remedy: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} ended with {status}")),
        Err(error) => Err(format!("{command:?} does not run ({error}); {remedy}")),
    }
}

/// Returns the first line of what a command prints.
pub(crate) fn first_line(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(workspace()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Returns the folder with the sources of a peer.
fn folder(language: &str) -> PathBuf {
    workspace().join("benches/peers").join(language)
}

/// Returns the folder for everything that outlives a run.
pub(crate) fn target() -> PathBuf {
    home().expect("there is a target folder")
}
