//! The package in the root of the workspace: its metadata and its binary.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

use crate::dev::dev_metadata::DevMetadata;
use crate::dev::error::DevError;
use crate::dev::run_command::run_command;

/// The package in the root of the workspace.
pub(crate) struct Project {
    /// The name of its binary.
    pub(crate) name: String,
    pub(crate) metadata: DevMetadata,
}

impl Project {
    /// Reads the package from `cargo metadata`.
    pub(crate) async fn read(workspace: &Path) -> Result<Self, DevError> {
        let output = run_command(cargo(workspace).args(["metadata", "--no-deps", "--format-version", "1"])).await?;
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let manifest = workspace.join("Cargo.toml").canonicalize().ok();
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let found = Path::new(package["manifest_path"].as_str().unwrap_or_default());
            let name = package["default_run"].as_str().or(package["name"].as_str());
            if found.canonicalize().ok() == manifest
                && let Some(name) = name
            {
                let metadata = DevMetadata::read(&package["metadata"]["devstack"])?;
                return Ok(Self { name: name.into(), metadata });
            }
        }
        Err(DevError::new("`cargo metadata` names no package in the root of the workspace"))
    }
}

/// Builds the service's binary, and returns its path.
///
/// It does not use `-p`. With `-p`, Cargo chooses other features of shared dependencies than in `cargo test`, and builds
/// them all again.
pub(crate) async fn build(workspace: &Path, name: &str) -> Result<PathBuf, DevError> {
    let mut command = cargo(workspace);
    command.args(["build", "--bin", name, "--message-format=json-render-diagnostics"]);
    let output = run_command(&mut command).await?;
    if !output.status.success() {
        return Err(DevError::new(format!("`{name}` does not build")));
    }
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let message: Value = serde_json::from_slice(line).unwrap_or_default();
        if message["target"]["name"] == name
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(path.into());
        }
    }
    Err(DevError::new(format!("`cargo build` does not say where it put `{name}`")))
}

fn cargo(workspace: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace);
    cargo
}
