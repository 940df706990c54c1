use std::path::PathBuf;
use std::time::Duration;

use devstack::{Authority, PythonEnvironment, Stack, home, workspace};

use super::Failure;
use super::dev_state::{Held, Pids, Running};
use super::project::Description;
use super::service_program::{self, Service};
use super::up_command::{furnish, say, stop_signals};

/// PostgreSQL and the secrets manager with everything that a service wants, and no service.
#[derive(clap::Args)]
pub(crate) struct StackCommand {
    /// The service's binary: it is asked what it wants, and migrates.
    #[arg(required_unless_present = "install")]
    program: Option<PathBuf>,
    /// Where PostgreSQL listens on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 5432)]
    postgres: u16,
    /// Where the secrets manager listens on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 5000)]
    manager: u16,
    /// Installs what the stack needs, and ends.
    #[arg(long)]
    install: bool,
}

impl StackCommand {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let Some(program) = &self.program else {
            return Ok(PythonEnvironment::install(&say).await.map(drop)?);
        };
        let held = Held::take()?;
        let mut signals = stop_signals();
        let stack = tokio::select! {
            stack = self.raise(&held, program.clone()) => stack?,
            _ = signals.changed() => return Ok(()),
        };
        say("ready for the service");
        eprintln!("\nCtrl-C stops both.");
        let outcome = tokio::select! {
            failure = ends(&stack) => Err(failure),
            _ = signals.changed() => Ok(()),
        };
        stack.stop().await;
        outcome
    }

    async fn raise(&self, held: &Held, program: PathBuf) -> Result<Stack, Failure> {
        let stack = Stack::start_at(self.postgres, self.manager, &say)
            .await?
            .with_authority(Authority::load_or_create(&home()?)?);
        let mut service = Service::new(program.clone(), &workspace());
        let description: Description = service.describe().await?;
        let settings = service.settings();
        let tenant = furnish(&stack, &mut service, &description, &say).await?;
        let [postgres, manager] = stack.pids();
        held.publish(Some(Running {
            public: description.settings.server.url()?,
            admin: description.settings.admin.url()?,
            manager: tenant.emulator().endpoint.clone(),
            database: tenant.database(),
            credentials: description.credentials,
            program,
            environment: service_program::leads_to(&tenant).collect(),
            settings,
            pids: Pids { service: None, postgres, manager },
        }))?;
        Ok(stack)
    }
}

/// Waits until a part ends, and names it.
async fn ends(stack: &Stack) -> Failure {
    loop {
        if let Some(error) = stack.exited() {
            stack.keep_logs();
            return error.into();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
