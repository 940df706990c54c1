use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use super::Failure;
use super::dev_metadata::DevMetadata;

/// A credential that the service asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Credential {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) kind: String,
}

/// What the service says of itself: `<service> config --json`.
#[derive(Deserialize)]
pub(crate) struct Description {
    pub(crate) settings: Settings,
    pub(crate) credentials: Vec<Credential>,
}

#[derive(Deserialize)]
pub(crate) struct Settings {
    pub(crate) server: Listener,
    pub(crate) admin: Listener,
    pub(crate) database: Database,
}

#[derive(Deserialize)]
pub(crate) struct Listener {
    listen: String,
    #[serde(default)]
    tls: bool,
}

#[derive(Deserialize)]
pub(crate) struct Database {
    pub(crate) name: String,
}

impl Listener {
    /// Where to reach it from here, as a URL without a path.
    pub(crate) fn url(&self) -> Result<String, Failure> {
        let address = match self.listen.rsplit_once(':') {
            Some((_, "0")) | None => Err(Failure::new(format!(
                "the service listens on {}; cargo dev must know the port: set one in config/ or in APP_SERVER__LISTEN \
                 and APP_ADMIN__LISTEN",
                self.listen
            ))),
            Some(("0.0.0.0" | "[::]", port)) => Ok(format!("127.0.0.1:{port}")),
            Some(_) => Ok(self.listen.clone()),
        }?;
        Ok(format!("{}://{address}", if self.tls { "https" } else { "http" }))
    }
}

/// The package in the root of the workspace.
pub(crate) struct Project {
    /// Its binary's.
    pub(crate) name: String,
    pub(crate) dev_metadata: DevMetadata,
}

pub(crate) async fn read(workspace: &Path) -> Result<Project, Failure> {
    let output = run(cargo(workspace).args(["metadata", "--no-deps", "--format-version", "1"])).await?;
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let manifest = workspace.join("Cargo.toml");
    let packages = metadata["packages"].as_array();
    let root = packages.into_iter().flatten().find(|package| {
        let found = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        found.canonicalize().ok() == manifest.canonicalize().ok()
    });
    let name = root.and_then(|package| package["default_run"].as_str().or(package["name"].as_str()));
    let (Some(root), Some(name)) = (root, name) else {
        return Err(Failure::new("`cargo metadata` names no package in the root of the workspace"));
    };
    Ok(Project { name: name.into(), dev_metadata: DevMetadata::read(&root["metadata"]["devstack"])? })
}

/// Builds the service's binary.
///
/// Without `-p`, which would choose other features of shared dependencies than `cargo test` does, and build them
/// all again.
pub(crate) async fn build(workspace: &Path, name: &str) -> Result<PathBuf, Failure> {
    let output =
        run(cargo(workspace).args(["build", "--bin", name, "--message-format=json-render-diagnostics"])).await?;
    if !output.status.success() {
        return Err(Failure::new(format!("`{name}` does not build")));
    }
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| Failure::new(format!("`cargo build` does not say where it put `{name}`")))
}

fn cargo(workspace: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace);
    cargo
}

/// Runs a command to its end, its errors going to the terminal.
pub(crate) async fn run(command: &mut Command) -> Result<Output, Failure> {
    let cannot = |error| Failure::new(format!("cannot run cargo or the service: {error}"));
    // Not `output`, which captures stderr whatever one says.
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    spawned.map_err(cannot)?.wait_with_output().await.map_err(cannot)
}
