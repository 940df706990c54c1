use std::time::{Duration, Instant};

use devstack::{Authority, Receiver, Signal, Stack, SupervisedProcess, Tenant, home, send_signal, workspace};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use super::deliveries::receive;
use super::dev_client::DevClient;
use super::dev_state::{self, Held, Pids, Running};
use super::hints::Hints;
use super::project::{self, Credential, Description, Project};
use super::service_program::{self, Service, explain};

/// Brings everything up, and down again when asked to or when a part of it ends.
pub(crate) async fn up() -> Result<(), Failure> {
    let held = Held::take()?;
    let (served, service) = watch::channel(None);
    let mut signals = stop_signals();
    tokio::spawn(hurry(signals.clone(), service));
    let mut world = tokio::select! {
        world = raise(&held, &served) => world?,
        _ = signals.changed() => return Ok(()),
    };
    let outcome = tokio::select! {
        failure = world.ends() => Err(failure),
        _ = signals.changed() => Ok(()),
    };
    eprintln!();
    say("stopping the service, the secrets manager and PostgreSQL");
    if outcome.is_err() {
        world.stack.keep_logs();
    }
    world.stop().await;
    outcome
}

/// The service, what it delivers to, and what it stands on.
struct World {
    service: SupervisedProcess,
    receivers: Vec<Receiver>,
    stack: Stack,
}

impl World {
    /// Waits until a part ends, and names it.
    async fn ends(&mut self) -> Failure {
        loop {
            // The stack first: a service often ends because of it.
            if let Some(error) = self.stack.exited() {
                return error.into();
            }
            if let Some(status) = self.service.exited() {
                return Failure::new(explain(status));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stop(self) {
        let Self { service, receivers, stack } = self;
        let _ = tokio::task::spawn_blocking(|| drop(service)).await;
        drop(receivers);
        stack.stop().await;
    }
}

async fn raise(held: &Held, served: &watch::Sender<Option<u32>>) -> Result<World, Failure> {
    let begun = Instant::now();
    let step = |text: &str| say(&format!("{:5.1} s  {text}", begun.elapsed().as_secs_f64()));
    let workspace = workspace();

    let Project { name, dev_metadata } = project::read(&workspace).await?;
    step(&format!("building {name}"));
    let (program, stack) = tokio::try_join!(project::build(&workspace, &name), async {
        Stack::start(&step).await.map_err(Failure::from)
    })?;
    let stack = stack.with_authority(Authority::load_or_create(&home()?)?);

    let mut service = Service::new(program, &workspace);
    let description = service.describe().await?;
    let (public, admin) = (description.settings.server.url()?, description.settings.admin.url()?);
    let dev_client = DevClient::of(&description.credentials)?;

    let settings = service.settings();
    let tenant = furnish(&stack, &mut service, &description, &step).await?;

    let receivers = receive(&tenant, &description.credentials, dev_metadata.receivers)?;

    step(&format!("starting {name}"));
    let mut process = service.serve(&tenant)?;
    served.send_replace(Some(process.pid()));
    let [postgres, manager] = stack.pids();
    let pids = Pids { service: Some(process.pid()), postgres, manager };
    wait_until_ready(&mut process, &admin, &dev_client).await?;
    held.publish(Some(Running {
        public: public.clone(),
        admin: admin.clone(),
        manager: tenant.emulator().endpoint.clone(),
        database: tenant.database(),
        credentials: description.credentials.clone(),
        program: service.program.clone(),
        environment: service_program::leads_to(&tenant).collect(),
        settings,
        pids,
    }))?;
    step("ready");
    let hints =
        Hints { public, admin, requests: dev_metadata.requests, credentials: description.credentials, dev_client };
    eprintln!("\n{}\n", hints.text()?);
    Ok(World { service: process, receivers, stack })
}

/// Makes the database and every credential, leads the service to them, and migrates.
pub(super) async fn furnish(
    stack: &Stack,
    service: &mut Service,
    description: &Description,
    step: &impl Fn(&str),
) -> Result<Tenant, Failure> {
    step("creating the database, its roles and the credentials");
    let ids = description.credentials.iter().map(|credential| (credential.name.clone(), credential.id.clone()));
    let tenant = stack.empty_tenant(&description.settings.database.name, ids).await?;
    service.settle(&tenant);
    for credential in &description.credentials {
        plant(&tenant, credential).await?;
    }
    if description.credentials.iter().any(|credential| credential.name == "migrator") {
        step("migrating");
        service.migrate().await?;
    }
    Ok(tenant)
}

/// Makes a random credential of the kind that is asked for.
async fn plant(tenant: &Tenant, credential: &Credential) -> Result<(), Failure> {
    let Credential { name, id, kind } = credential;
    if tenant.put_random(name, kind).await?.is_some() {
        return Ok(());
    }
    eprintln!(
        "\ncargo dev cannot invent the credential `{name}`: it is of the kind `{kind}`. Waiting until you put it \
         there:\n\n  AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=eu-west-1 \\\n  \
         aws secretsmanager create-secret --endpoint-url {} --name {id} --secret-string file://…\n",
        tenant.emulator().endpoint
    );
    while !matches!(tenant.version(name, "AWSCURRENT").await, Ok(Some(_))) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn wait_until_ready(service: &mut SupervisedProcess, admin: &str, dev_client: &DevClient) -> Result<(), Failure> {
    let client = dev_client.http().timeout(Duration::from_secs(2)).build().expect("it trusts an authority of ours");
    let give_up = Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(status) = service.exited() {
            return Err(Failure::new(explain(status)));
        }
        let answer = client.get(format!("{admin}/readyz")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(Failure::new(format!("{admin}/readyz did not answer 200 within 90 s")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts the signals that ask us to stop.
pub(super) fn stop_signals() -> watch::Receiver<u32> {
    let (count, counted) = watch::channel(0);
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let count = count.clone();
        let mut signals = signal(kind).expect("none of these is forbidden to handle");
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                count.send_modify(|count| *count += 1);
            }
        });
    }
    counted
}

/// Ends everything at the second signal: us and the service here, the rest by its watchdogs.
async fn hurry(mut signals: watch::Receiver<u32>, service: watch::Receiver<Option<u32>>) {
    if signals.wait_for(|count| *count >= 2).await.is_err() {
        return;
    }
    if let Some(pid) = *service.borrow() {
        let _ = send_signal(pid, Signal::KILL);
    }
    dev_state::forget();
    std::process::exit(130);
}

pub(super) fn say(text: &str) {
    eprintln!("cargo dev: {text}");
}
