//! The local stack: PostgreSQL, an emulator of AWS Secrets Manager and a certificate authority.

pub(crate) mod error;
pub(crate) mod file_lock;
pub(crate) mod folders;
pub(crate) mod free_port;
pub(crate) mod last_lines;
pub(crate) mod polling;
pub(crate) mod random;

pub(crate) mod python_environment;
pub(crate) mod run_folder;
pub(crate) mod supervised_process;

pub(crate) mod authority;
pub(crate) mod emulator;
pub(crate) mod openbao;
pub(crate) mod openbao_program;
pub(crate) mod postgres;

pub(crate) mod database_address;
pub(crate) mod declared_credential;
pub(crate) mod declared_databases;
pub(crate) mod emulator_secret;
pub(crate) mod leak_detector;
pub(crate) mod rotation;
pub(crate) mod second_region;
pub(crate) mod tenant;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use crate::stack::authority::Authority;
use crate::stack::emulator::Emulator;
use crate::stack::error::Error;
use crate::stack::free_port::free_port;
use crate::stack::postgres::Postgres;
use crate::stack::python_environment::PythonEnvironment;
use crate::stack::run_folder::RunFolder;
use crate::stack::supervised_process::SupervisedProcess;

/// A running PostgreSQL and a running secrets manager, which end with this process, however it ends; and a certificate
/// authority.
pub struct Stack {
    python: PythonEnvironment,
    postgres: Postgres,
    emulator: Emulator,
    authority: Arc<Authority>,
    parts: Mutex<StackParts>,
}

/// The processes and the folder of a stack. They stop in the order of the fields.
struct StackParts {
    emulator: SupervisedProcess,
    postgres: SupervisedProcess,
    run: RunFolder,
}

impl Stack {
    /// Starts PostgreSQL and the secrets manager on free ports. Installs them first if necessary.
    pub async fn start(progress: &(dyn Fn(&str) + Sync)) -> Result<Self, Error> {
        Self::start_at(free_port(), free_port(), progress).await
    }

    /// Does the same as [`Self::start`], with PostgreSQL and the secrets manager on these ports of 127.0.0.1.
    pub async fn start_at(
        postgres_port: u16,
        emulator_port: u16,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<Self, Error> {
        let python = PythonEnvironment::install(progress).await?;
        let run = RunFolder::create().await?;
        progress("starting PostgreSQL 18 and the secrets manager");
        let (emulator, mut emulator_process) = Emulator::spawn(&python, &run.path, emulator_port)?;
        let (postgres, mut postgres_process) = match Postgres::spawn(&python, &run, postgres_port).await {
            Ok(spawned) => spawned,
            Err(error) => return Err(keep_logs_of(run, error)),
        };
        let ready = tokio::try_join!(emulator.ready(&mut emulator_process), postgres.ready(&mut postgres_process));
        if let Err(error) = ready {
            return Err(keep_logs_of(run, error));
        }
        let parts = Mutex::new(StackParts { emulator: emulator_process, postgres: postgres_process, run });
        Ok(Self { python, postgres, emulator, authority: Arc::new(Authority::new("devstack")), parts })
    }

    /// Replaces the stack's own certificate authority.
    pub fn with_authority(self, authority: Authority) -> Self {
        Self { authority: Arc::new(authority), ..self }
    }

    /// Returns the stack of this test process. The first caller starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn shared() -> &'static Self {
        // It lives as long as the test process, and each test has a runtime of its own: nothing in here may belong to a
        // runtime.
        static SHARED: OnceCell<Stack> = OnceCell::const_new();
        SHARED
            .get_or_init(async || match Self::start(&|step| eprintln!("devstack: {step}")).await {
                Ok(stack) => stack,
                Err(error) => panic!("{}", error.report()),
            })
            .await
    }

    /// Returns the running PostgreSQL.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// Returns the running emulator of the secrets manager.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// Returns the authority that issues the certificates of tenants.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    pub(crate) fn python(&self) -> &PythonEnvironment {
        &self.python
    }

    /// Returns an error that names a part that has ended by itself.
    pub fn exited(&self) -> Option<Error> {
        let mut parts = self.parts();
        if let Some(status) = parts.postgres.exited() {
            return Some(self.postgres.failed(format!("stopped by itself ({status})")));
        }
        let status = parts.emulator.exited()?;
        Some(self.emulator.failed(format!("stopped by itself ({status})")))
    }

    /// Returns the process ids of PostgreSQL and of the secrets manager.
    pub fn pids(&self) -> [u32; 2] {
        let parts = self.parts();
        [parts.postgres.pid(), parts.emulator.pid()]
    }

    /// Leaves the logs, for people to read until the next run.
    pub fn keep_logs(&self) {
        self.parts().run.keep();
    }

    /// Stops the secrets manager, then PostgreSQL. Dropping does the same.
    pub async fn stop(self) {
        let stopped = tokio::task::spawn_blocking(|| drop(self)).await;
        stopped.expect("stopping a child does not panic");
    }

    /// Returns the folder with the logs.
    pub(crate) fn folder(&self) -> PathBuf {
        self.parts().run.path.clone()
    }

    fn parts(&self) -> MutexGuard<'_, StackParts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep_logs_of(mut run: RunFolder, error: Error) -> Error {
    run.keep();
    error
}
