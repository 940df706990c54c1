//! `cargo dev stack`: the stack without the service.

use std::path::PathBuf;
use std::time::Duration;

use crate::dev::dev_lock::DevLock;
use crate::dev::dev_state::{RunningStack, StackPids};
use crate::dev::error::DevError;
use crate::dev::free_address::check_free;
use crate::dev::prepare_tenant::{TenantManager, prepare_tenant};
use crate::dev::progress::print_progress;
use crate::dev::secrets_manager::ManagerPlace;
use crate::dev::service_program::{ServiceProgram, tenant_environment};
use crate::dev::stop_signals::stop_signals;
use crate::stack::Stack;
use crate::stack::authority::Authority;
use crate::stack::folders::{home, workspace};
use crate::stack::polling::Polling;
use crate::stack::python_environment::PythonEnvironment;

const WATCH: Polling = Polling { interval: Duration::from_millis(100), limit: Duration::MAX };

/// PostgreSQL and the secrets manager with everything that a service needs, and no service.
#[derive(clap::Args)]
pub(crate) struct StackCommand {
    /// The service's binary. It describes its credentials, and migrates.
    #[arg(required_unless_present = "install")]
    program: Option<PathBuf>,
    /// The port of PostgreSQL on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 5432)]
    postgres: u16,
    /// The port of the secrets manager on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 5000)]
    manager: u16,
    /// Installs what the stack needs, and ends.
    #[arg(long)]
    install: bool,
}

impl StackCommand {
    /// Runs the stack until a signal comes or a part ends.
    pub(crate) async fn run(self) -> Result<(), DevError> {
        let Some(program) = &self.program else {
            PythonEnvironment::install(&print_progress).await?;
            return Ok(());
        };
        let lock = DevLock::take()?;
        let mut signals = stop_signals();
        let stack = tokio::select! {
            stack = self.start(&lock, program.clone()) => stack?,
            _ = signals.changed() => return Ok(()),
        };
        print_progress("ready for the service");
        eprintln!("\nCtrl-C stops both.");
        let outcome = tokio::select! {
            error = WATCH.until(|| stack.exited()) => {
                stack.keep_logs();
                Err(error.expect("this wait has no limit").into())
            }
            _ = signals.changed() => Ok(()),
        };
        stack.stop().await;
        outcome
    }

    async fn start(&self, lock: &DevLock, path: PathBuf) -> Result<Stack, DevError> {
        for (what, port, option) in
            [("PostgreSQL", self.postgres, "--postgres"), ("the secrets manager", self.manager, "--manager")]
        {
            check_free(&format!("127.0.0.1:{port}"), what, &format!("choose another port with {option}"))?;
        }
        let stack = Stack::start_at(self.postgres, self.manager, &print_progress).await?;
        let stack = stack.with_authority(Authority::load_or_create(&home()?)?);
        let mut program = ServiceProgram::new(path.clone(), &workspace());
        program.use_aws();
        let description = program.describe().await?;
        let settings = program.settings();
        let tenant =
            prepare_tenant(&stack, &mut program, &description, TenantManager::Emulator, &print_progress).await?;
        let [postgres, manager] = stack.pids();
        lock.publish(Some(RunningStack {
            public: description.settings.server.url()?,
            admin: description.settings.admin.url()?,
            manager: ManagerPlace { manager: tenant.emulator().endpoint.clone(), openbao_token: None },
            issuer: None,
            database: tenant.database(),
            credentials: description.credentials,
            program: path,
            environment: tenant_environment(&tenant),
            settings,
            pids: StackPids { service: None, postgres, manager },
        }))?;
        Ok(stack)
    }
}
