//! The service's binary, and the environment in which it runs.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;

use crate::dev::dev_state::RunningStack;
use crate::dev::error::DevError;
use crate::dev::run_command::run_command;
use crate::dev::service_description::ServiceDescription;
use crate::stack::openbao::access::OpenBaoAccess;
use crate::stack::supervised_process::{StopSignal, SupervisedProcess};
use crate::stack::tenant::Tenant;
use crate::testing::token_issuer::TokenIssuer;

/// The signal that stops the service, and the time until it is killed. A service drains in less time.
const STOP: StopSignal = StopSignal { signal: Signal::TERM, grace: Duration::from_secs(45) };

/// The service's binary, and the environment in which it runs.
pub(crate) struct ServiceProgram {
    pub(crate) path: PathBuf,
    workspace: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl ServiceProgram {
    /// Prepares a service with the user's environment, without variables that lead to another AWS or PostgreSQL. The
    /// profile is `dev` if the user has chosen none and the project has a `dev.toml`.
    pub(crate) fn new(path: PathBuf, workspace: &Path) -> Self {
        let mut program = Self::with_user_environment(path, workspace);
        let folder = std::env::var_os("APP_CONFIG_DIR").unwrap_or_else(|| "config".into());
        if workspace.join(folder).join("dev.toml").exists() {
            program.set_default("APP_PROFILE", "dev");
        }
        program.set_default("APP_TELEMETRY__FORMAT", "pretty");
        program.set_default("APP_SERVER__LINGER", "0s");
        program
    }

    fn with_user_environment(path: PathBuf, workspace: &Path) -> Self {
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let text = name.to_str().unwrap_or_default();
            // `cargo run` sets these two, on Linux and on macOS, and the service warns of them.
            let is_of_cargo = matches!(text, "LD_LIBRARY_PATH" | "DYLD_FALLBACK_LIBRARY_PATH");
            if !text.starts_with("AWS_") && !text.starts_with("PG") && !is_of_cargo {
                environment.push((name, value));
            }
        }
        Self { path, workspace: workspace.into(), environment }
    }

    /// Prepares a service with the configuration of the running one. The user's own variables of now come first.
    pub(crate) fn like_running(running: &RunningStack, workspace: &Path) -> Self {
        let mut program = Self::with_user_environment(running.program.clone(), workspace);
        for (name, value) in &running.settings {
            program.set_default(name, value);
        }
        for (name, value) in &running.environment {
            program.set(name, value);
        }
        program
    }

    /// Sets the variables with which the service finds its tenant.
    pub(crate) fn use_tenant(&mut self, tenant: &Tenant) {
        for (name, value) in tenant_environment(tenant) {
            self.set(&name, &value);
        }
    }

    /// Makes OpenBao the service's secrets manager: sets the variables with which it finds the server.
    pub(crate) fn use_openbao(&mut self, access: &OpenBaoAccess) {
        for (name, value) in access.env() {
            self.set(name, value);
        }
    }

    /// Has the login of the database made by OpenBao, unless the user has chosen its id.
    pub(crate) fn lease_logins(&mut self) {
        self.set_default("APP_SECRETS__IDS__DATABASE", "database/creds/service");
    }

    /// Makes AWS Secrets Manager the service's secrets manager, also if its configuration has another one.
    pub(crate) fn use_aws(&mut self) {
        self.set("APP_SECRETS__PROVIDER", "aws");
    }

    /// Sets the variables with which the service accepts the tokens of an issuer.
    pub(crate) fn use_issuer(&mut self, issuer: &TokenIssuer) {
        for (name, value) in issuer.env() {
            self.set(&name, &value);
        }
    }

    /// Returns the settings among the variables. They cannot hold a secret. Other variables that begin with `APP_` are
    /// not the service's.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let mut settings = Vec::new();
        for (name, value) in &self.environment {
            if let (Some(name), Some(value)) = (name.to_str(), value.to_str())
                && is_setting(name)
            {
                settings.push((name.to_owned(), value.to_owned()));
            }
        }
        settings
    }

    /// Sets a variable that the user has not set.
    fn set_default(&mut self, name: &str, value: &str) {
        if std::env::var_os(name).is_none() {
            self.set(name, value);
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(set, _)| set != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Asks the service for its configuration.
    pub(crate) async fn describe(&self) -> Result<ServiceDescription, DevError> {
        let output = run_command(&mut self.command(&["config", "--json"])).await?;
        if !output.status.success() {
            return Err(DevError::new("the service rejects its configuration"));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| DevError::new(format!("cannot read `config --json` of the service: {error}")))
    }

    /// Runs the migrations.
    pub(crate) async fn migrate(&self) -> Result<(), DevError> {
        let ended = self.command(&["migrate"]).stdin(Stdio::null()).kill_on_drop(true).status().await;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(DevError::new(format!("the migrations failed ({status}); their output is above"))),
            Err(error) => Err(DevError::new(format!("cannot start the migrations: {error}"))),
        }
    }

    /// Starts the service.
    pub(crate) fn serve(&self, tenant: &Tenant) -> Result<SupervisedProcess, DevError> {
        let mut command = SupervisedProcess::command(tenant.python(), &self.path, STOP, None);
        command.arg("serve").current_dir(&self.workspace).env_clear().envs(self.environment.iter().cloned());
        SupervisedProcess::spawn(command, STOP)
            .map_err(|error| DevError::new(format!("cannot start the service: {error}")))
    }

    /// Prepares a command of the service.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).current_dir(&self.workspace).env_clear().envs(self.environment.iter().cloned());
        command
    }
}

/// Returns the variables with which a service finds its tenant, without the prefix of secret ids: the ids come from the
/// service's own configuration.
pub(crate) fn tenant_environment(tenant: &Tenant) -> Vec<(String, String)> {
    let mut environment = tenant.env();
    environment.retain(|(name, _)| name != "APP_SECRETS__PREFIX");
    environment
}

/// Describes a service that ended by itself.
pub(crate) fn describe_exit(status: ExitStatus) -> String {
    format!("the service ended by itself ({status}); its output is above")
}

fn is_setting(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("APP_") else { return false };
    rest == "PROFILE" || rest == "CONFIG_DIR" || rest.contains("__")
}
