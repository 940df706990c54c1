use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use devstack::{Signal, StopSignal, SupervisedProcess, Tenant};
use tokio::process::Command;

use super::Failure;
use super::dev_state::Running;
use super::project::{Description, run};

/// Longer than a service takes to drain.
const STOP: StopSignal = StopSignal { signal: Signal::TERM, grace: Duration::from_secs(45) };

/// The service's binary, and the environment it runs in.
pub(crate) struct Service {
    pub(crate) program: PathBuf,
    workspace: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Service {
    /// The environment is the user's, without what would lead to another AWS or PostgreSQL. The profile is `dev` where
    /// the user has chosen none and the project has that one.
    pub(crate) fn new(program: PathBuf, workspace: &Path) -> Self {
        let mut service = Self::bare(program, workspace);
        let folder = std::env::var_os("APP_CONFIG_DIR").unwrap_or_else(|| "config".into());
        if workspace.join(folder).join("dev.toml").exists() {
            service.set_unless_chosen("APP_PROFILE", "dev");
        }
        service.set_unless_chosen("APP_TELEMETRY__FORMAT", "pretty");
        service.set_unless_chosen("APP_SERVER__LINGER", "0s");
        service
    }

    fn bare(program: PathBuf, workspace: &Path) -> Self {
        let foreign = |name: &str| name.starts_with("AWS_") || name.starts_with("PG");
        let environment = std::env::vars_os().filter(|(name, _)| !name.to_str().is_some_and(foreign)).collect();
        Self { program, workspace: workspace.into(), environment }
    }

    /// Beside one that runs, and configured as it is where the user does not say otherwise now.
    pub(crate) fn in_place_of(running: &Running, workspace: &Path) -> Self {
        let mut service = Self::bare(running.program.clone(), workspace);
        for (name, value) in &running.settings {
            service.set_unless_chosen(name, value);
        }
        for (name, value) in &running.environment {
            service.set(name, value);
        }
        service
    }

    /// Leads it to the tenant.
    pub(crate) fn settle(&mut self, tenant: &Tenant) {
        for (name, value) in leads_to(tenant) {
            self.set(&name, &value);
        }
    }

    /// The settings among its variables, which no secret can be in. Other variables that begin like them are somebody
    /// else's.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let ours = |name: &str| {
            name.strip_prefix("APP_")
                .is_some_and(|rest| rest == "PROFILE" || rest == "CONFIG_DIR" || rest.contains("__"))
        };
        let text = |(name, value): &(OsString, OsString)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()));
        self.environment.iter().filter_map(text).filter(|(name, _)| ours(name)).collect()
    }

    fn set_unless_chosen(&mut self, name: &str, value: &str) {
        if std::env::var_os(name).is_none() {
            self.set(name, value);
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(set, _)| set != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Asks it for its configuration.
    pub(crate) async fn describe(&self) -> Result<Description, Failure> {
        let output = run(&mut self.command(&["config", "--json"])).await?;
        if !output.status.success() {
            return Err(Failure::new("the service refuses its configuration"));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| Failure::new(format!("`config --json` of the service is not what it was: {error}")))
    }

    pub(crate) async fn migrate(&self) -> Result<(), Failure> {
        let ended = self.command(&["migrate"]).stdin(Stdio::null()).kill_on_drop(true).status().await;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::new(format!("the migrations failed ({status}); what they said is above"))),
            Err(error) => Err(Failure::new(format!("cannot start the migrations: {error}"))),
        }
    }

    pub(crate) fn serve(&self, tenant: &Tenant) -> Result<SupervisedProcess, Failure> {
        let mut command = SupervisedProcess::command(tenant.python(), &self.program, STOP, None);
        command.arg("serve").current_dir(&self.workspace).env_clear().envs(self.environment.iter().cloned());
        SupervisedProcess::spawn(command, STOP)
            .map_err(|error| Failure::new(format!("cannot start the service: {error}")))
    }

    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.workspace).env_clear().envs(self.environment.iter().cloned());
        command
    }
}

/// The ids of a tenant's secrets are the service's own configuration's.
pub(crate) fn leads_to(tenant: &Tenant) -> impl Iterator<Item = (String, String)> {
    tenant.env().into_iter().filter(|(name, _)| name != "APP_SECRETS__PREFIX")
}

pub(crate) fn explain(status: ExitStatus) -> String {
    format!("the service ended by itself ({status}); what it said is above")
}
