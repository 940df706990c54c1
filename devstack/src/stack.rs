use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use crate::authority::Authority;
use crate::home::Run;
use crate::manager::Manager;
use crate::postgres::Postgres;
use crate::python::Python;
use crate::supervised::Supervised;
use crate::{Error, Tenant};

/// A running PostgreSQL and a running secrets manager, which end with this process, however it ends; and a certificate
/// authority.
pub struct Stack {
    python: Python,
    postgres: Postgres,
    manager: Manager,
    authority: Arc<Authority>,
    parts: Mutex<Parts>,
}

/// In the order in which they stop.
struct Parts {
    manager: Supervised,
    postgres: Supervised,
    run: Run,
}

impl Stack {
    /// Starts both, installing them first where that was not done yet.
    pub async fn start(progress: &(dyn Fn(&str) + Sync)) -> Result<Self, Error> {
        Self::start_at(free_port(), free_port(), progress).await
    }

    /// The same, where PostgreSQL and the secrets manager listen on these ports of 127.0.0.1.
    pub async fn start_at(postgres: u16, manager: u16, progress: &(dyn Fn(&str) + Sync)) -> Result<Self, Error> {
        let python = Python::install(progress).await?;
        let run = Run::start().await?;
        progress("starting PostgreSQL 18 and the secrets manager");
        let (manager, mut manager_process) = Manager::spawn(&python, &run.dir, manager)?;
        let (postgres, mut postgres_process) = match Postgres::spawn(&python, &run, postgres).await {
            Ok(spawned) => spawned,
            Err(error) => return Err(kept(run, error)),
        };
        let ready = tokio::try_join!(manager.ready(&mut manager_process), postgres.ready(&mut postgres_process));
        if let Err(error) = ready {
            return Err(kept(run, error));
        }
        let parts = Mutex::new(Parts { manager: manager_process, postgres: postgres_process, run });
        Ok(Self { python, postgres, manager, authority: Arc::new(Authority::new("devstack")), parts })
    }

    /// The same with another certificate authority than one of its own.
    pub fn with_authority(self, authority: Authority) -> Self {
        Self { authority: Arc::new(authority), ..self }
    }

    /// The stack of this test process, started by whoever asks first.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn shared() -> &'static Self {
        // It lives as long as the test process, and tests come one runtime each: nothing in it may belong to one.
        static SHARED: OnceCell<Stack> = OnceCell::const_new();
        SHARED
            .get_or_init(async || match Self::start(&|step| eprintln!("devstack: {step}")).await {
                Ok(stack) => stack,
                Err(error) => panic!("{}", error.report()),
            })
            .await
    }

    /// Where PostgreSQL is.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// Where the secrets manager is.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Who issues the certificates of tenants.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    pub(crate) fn python(&self) -> &Python {
        &self.python
    }

    /// A database, roles and secrets that nobody else has; `label` makes them recognizable.
    pub async fn tenant(&self, label: &str) -> Result<Tenant, Error> {
        let label: String =
            label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
        let random = crate::planted::random();
        self.named_tenant(&format!("{:.30}_{:.8}", label, random)).await
    }

    /// The same under exactly this name.
    pub async fn named_tenant(&self, name: &str) -> Result<Tenant, Error> {
        let tenant = self.empty_tenant(name, []).await?;
        tenant.furnish().await?;
        Ok(tenant)
    }

    /// Which part has ended although nobody asked it to.
    pub fn exited(&self) -> Option<Error> {
        let mut parts = self.parts();
        if let Some(status) = parts.postgres.exited() {
            return Some(self.postgres.failed(format!("stopped by itself ({status})")));
        }
        let status = parts.manager.exited()?;
        Some(self.manager.failed(format!("stopped by itself ({status})")))
    }

    /// The process ids of PostgreSQL and of the secrets manager.
    pub fn pids(&self) -> [u32; 2] {
        let parts = self.parts();
        [parts.postgres.pid(), parts.manager.pid()]
    }

    /// Leaves the logs, for people to read until the next run.
    pub fn keep_logs(&self) {
        self.parts().run.keep();
    }

    /// Stops the manager, then PostgreSQL. Dropping does the same.
    pub async fn stop(self) {
        let stopped = tokio::task::spawn_blocking(|| drop(self)).await;
        stopped.expect("stopping a child does not panic");
    }

    /// Where the logs are.
    pub(crate) fn folder(&self) -> PathBuf {
        self.parts().run.dir.clone()
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kept(mut run: Run, error: Error) -> Error {
    run.keep();
    error
}

/// A port of 127.0.0.1 on which nobody listens. Below every system's range for outgoing connections and for port 0, so
/// that none of those takes it soon.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
