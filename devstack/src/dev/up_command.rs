//! `cargo dev` without a command: the service on a stack of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::watch;

use crate::dev::api_receivers::start_receivers;
use crate::dev::dev_client::DevClient;
use crate::dev::dev_lock::DevLock;
use crate::dev::dev_state::{DevState, RunningStack, StackPids};
use crate::dev::error::DevError;
use crate::dev::hints::Hints;
use crate::dev::prepare_tenant::{TenantManager, prepare_tenant};
use crate::dev::progress::print_progress;
use crate::dev::project::{self, Project};
use crate::dev::secrets_manager::{ManagerName, ManagerPlace};
use crate::dev::service_program::{ServiceProgram, describe_exit, tenant_environment};
use crate::dev::stop_signals::stop_signals;
use crate::stack::Stack;
use crate::stack::authority::Authority;
use crate::stack::folders::{home, workspace};
use crate::stack::openbao::OpenBaoServer;
use crate::stack::polling::Polling;
use crate::stack::supervised_process::{SupervisedProcess, send_signal};
use crate::testing::receiver::Receiver;
use crate::testing::token_issuer::TokenIssuer;

const WATCH: Polling = Polling { interval: Duration::from_millis(100), limit: Duration::MAX };

/// The reason for which `--ttl` needs OpenBao.
const NO_LEASES: &str = "with --ttl, OpenBao makes the logins: add --secrets openbao";

const START: Polling = Polling { interval: Duration::from_millis(50), limit: Duration::from_secs(90) };

/// Starts everything. Stops it again at a signal, or if a part ends.
pub(crate) async fn run(auth: bool, secrets: Option<ManagerName>, ttl: Option<Duration>) -> Result<(), DevError> {
    if ttl.is_some() && secrets == Some(ManagerName::Aws) {
        return Err(DevError::new(NO_LEASES));
    }
    let lock = DevLock::take()?;
    let (service_pid, started_pid) = watch::channel(None);
    let mut signals = stop_signals();
    tokio::spawn(kill_at_second_signal(signals.clone(), started_pid));
    let mut environment = tokio::select! {
        environment = start(&lock, &service_pid, auth, secrets, ttl) => environment?,
        _ = signals.changed() => return Ok(()),
    };
    let outcome = tokio::select! {
        error = environment.wait_for_end() => Err(error),
        _ = signals.changed() => Ok(()),
    };
    eprintln!();
    print_progress("stopping the service, the secrets manager and PostgreSQL");
    if outcome.is_err() {
        environment.stack.keep_logs();
    }
    environment.stop().await;
    outcome
}

/// The running service, the receivers of its API keys, and its stack.
struct DevEnvironment {
    service: SupervisedProcess,
    receivers: Vec<Receiver>,
    issuer: Option<TokenIssuer>,
    openbao: Option<OpenBaoServer>,
    stack: Stack,
}

impl DevEnvironment {
    /// Waits until a part ends, and names it.
    async fn wait_for_end(&mut self) -> DevError {
        let ended = WATCH.until(|| {
            // The stack first: a service often ends because of it.
            if let Some(error) = self.stack.exited() {
                return Some(error.into());
            }
            if let Some(status) = self.openbao.as_ref().and_then(OpenBaoServer::exited) {
                return Some(DevError::new(format!("OpenBao ended by itself ({status})")));
            }
            let status = self.service.exited()?;
            Some(DevError::new(describe_exit(status)))
        });
        ended.await.expect("this wait has no limit")
    }

    /// Stops the service first, and then everything that it uses.
    async fn stop(self) {
        let Self { service, receivers, issuer, openbao, stack } = self;
        let _ = tokio::task::spawn_blocking(|| drop((service, openbao))).await;
        drop((receivers, issuer));
        stack.stop().await;
    }
}

async fn start(
    lock: &DevLock,
    service_pid: &watch::Sender<Option<u32>>,
    auth: bool,
    secrets: Option<ManagerName>,
    ttl: Option<Duration>,
) -> Result<DevEnvironment, DevError> {
    let start = Instant::now();
    let progress = |text: &str| print_progress(&format!("{:5.1} s  {text}", start.elapsed().as_secs_f64()));
    let workspace = workspace();

    let Project { name, metadata } = Project::read(&workspace).await?;
    progress(&format!("building {name}"));
    let ((mut program, manager), stack) = tokio::try_join!(build(&workspace, &name, secrets), async {
        Stack::start(&progress).await.map_err(DevError::from)
    })?;
    let stack = stack.with_authority(Authority::load_or_create(&home()?)?);

    let issuer = if auth { Some(TokenIssuer::start()?) } else { None };
    if let Some(issuer) = &issuer {
        program.use_issuer(issuer);
    }
    let mut openbao = None;
    let mut access = None;
    match manager {
        ManagerName::Aws if ttl.is_some() => {
            return Err(DevError::new(NO_LEASES));
        }
        ManagerName::Aws => program.use_aws(),
        ManagerName::Openbao => {
            let server = stack.openbao(&progress).await?;
            let admitted = server.admit("service", "").await?;
            program.use_openbao(&admitted);
            if ttl.is_some() {
                program.lease_logins();
            }
            access = Some(admitted);
            openbao = Some(server);
        }
    }
    let description = program.describe().await?;
    let (public, admin) = (description.settings.server.url()?, description.settings.admin.url()?);
    let dev_client = DevClient::new(&description.credentials)?;

    let settings = program.settings();
    let manager = match (&openbao, access) {
        (Some(server), Some(access)) => TenantManager::OpenBao { server, access, ttl },
        _ => TenantManager::Emulator,
    };
    let tenant = prepare_tenant(&stack, &mut program, &description, manager, &progress).await?;

    let receivers = start_receivers(&tenant, &description.credentials, metadata.receivers)?;

    progress(&format!("starting {name}"));
    let mut service = program.serve(&tenant)?;
    service_pid.send_replace(Some(service.pid()));
    let [postgres, emulator] = stack.pids();
    let (url, token_file, manager_pid) = match &openbao {
        Some(server) => (server.api().address(), Some(server.root_token_file()), server.pid()),
        None => (tenant.emulator().endpoint.as_str(), None, emulator),
    };
    let manager = ManagerPlace { manager: url.to_owned(), openbao_token: token_file };
    let pids = StackPids { service: Some(service.pid()), postgres, manager: manager_pid };
    wait_until_ready(&mut service, &admin, &dev_client).await?;
    lock.publish(Some(RunningStack {
        public: public.clone(),
        admin: admin.clone(),
        manager,
        issuer: issuer.as_ref().map(TokenIssuer::url),
        database: tenant.database(),
        credentials: description.credentials.clone(),
        program: program.path.clone(),
        environment: tenant_environment(&tenant),
        settings,
        pids,
    }))?;
    progress("ready");
    let (requests, credentials) = (metadata.requests, description.credentials);
    let token = issuer.as_ref().map(|issuer| issuer.token("developer", ""));
    let hints = Hints { public, admin, requests, credentials, dev_client, token };
    eprintln!("\n{}\n", hints.text()?);
    Ok(DevEnvironment { service, receivers, issuer, openbao, stack })
}

/// Builds the service, and checks that its addresses are free. Returns it with the secrets manager that it will use.
async fn build(
    workspace: &Path,
    name: &str,
    secrets: Option<ManagerName>,
) -> Result<(ServiceProgram, ManagerName), DevError> {
    let mut program = ServiceProgram::new(project::build(workspace, name).await?, workspace);
    if secrets.is_some() {
        // OpenBao has no address yet, without which the service may reject its configuration.
        program.use_aws();
    }
    let settings = program.describe().await?.settings;
    settings.check_free()?;
    Ok((program, secrets.unwrap_or(settings.secrets.provider)))
}

async fn wait_until_ready(
    service: &mut SupervisedProcess,
    admin_url: &str,
    dev_client: &DevClient,
) -> Result<(), DevError> {
    let client = dev_client.http().timeout(Duration::from_secs(2)).build().expect("it trusts an authority of ours");
    let url = format!("{admin_url}/readyz");
    let ready = START.until_async(async || {
        if let Some(status) = service.exited() {
            return Some(Err(DevError::new(describe_exit(status))));
        }
        let answer = client.get(&url).send().await.ok()?;
        if answer.status().is_success() { Some(Ok(())) } else { None }
    });
    match ready.await {
        Some(outcome) => outcome,
        None => Err(DevError::new(format!("{url} did not answer 200 within 90 s"))),
    }
}

/// Ends everything at once when a second signal comes: the service and this process here, the rest by its watchdogs.
#[expect(clippy::exit, reason = "the second signal ends the process at once, with nothing left to wait for")]
async fn kill_at_second_signal(mut signals: watch::Receiver<u32>, service_pid: watch::Receiver<Option<u32>>) {
    if signals.wait_for(|count| *count >= 2).await.is_err() {
        return;
    }
    if let Some(pid) = *service_pid.borrow() {
        let _ = send_signal(pid, Signal::KILL);
    }
    DevState::remove();
    std::process::exit(130);
}
