use std::time::{Duration, Instant};

use devstack::{Manager, Planted, Rotation, random, random_key};

use super::Failure;
use super::admin::Admin;
use super::project::Credential;
use super::state::{self, Running};

/// Rotates a credential of the running service, and waits until it is in service.
#[derive(clap::Args)]
pub(crate) struct Rotate {
    /// Its name: `database`, `signing`, …
    #[arg(value_name = "CREDENTIAL")]
    name: String,
    /// Do not send SIGHUP; the service finds the new version by itself, sooner or later.
    #[arg(long)]
    no_signal: bool,
    /// Stay so long in the window in which the database refuses AWSCURRENT, as in `20s`, `1m` or `500ms`.
    #[arg(long, value_name = "DURATION")]
    window: Option<humantime::Duration>,
}

impl Rotate {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let state = state::find()?;
        let running = state.running()?;
        let Self { name, no_signal, window } = self;
        let Some(credential) = running.credentials.iter().find(|credential| credential.name == name) else {
            let names: Vec<_> = running.credentials.iter().map(|credential| credential.name.as_str()).collect();
            return Err(Failure::new(format!("the service has no credential `{name}`; it has {}", names.join(", "))));
        };
        let admin = Admin::new(&running.admin);
        let before = admin.status().await?;
        let pid = before.pid()?;
        let version = match (credential.kind.as_str(), window) {
            ("login", window) => rotate_login(running, credential, &admin, window.map(Into::into)).await?,
            (_, None) => replace(running, credential).await?,
            _ => return Err(Failure::new(format!("`{name}` is no login: its rotation has no window"))),
        };
        if before.version(&name).is_none() {
            println!("the service does not hold `{name}`: there is nothing to reload");
        } else if no_signal {
            println!("not telling the service: `kill -HUP {pid}` would; {} shows what it holds", admin.url);
        } else {
            println!("SIGHUP to process {pid}");
            devstack::send(pid, devstack::Signal::HUP)?;
            let after = in_service(&admin, &name, &version).await?;
            println!("generation {} -> {after}, version {version} in service", before.generation());
        }
        Ok(())
    }
}

async fn rotate_login(
    running: &Running,
    credential: &Credential,
    admin: &Admin,
    window: Option<Duration>,
) -> Result<String, Failure> {
    let Credential { name, id, .. } = credential;
    let client = Manager::at(&running.manager).client();
    let rotation = Rotation::new(client, name, id, running.database.clone(), Planted::default());
    let version = rotation.version().to_owned();
    rotation.create_pending().await?;
    println!("1 create  {id}: version {version} is AWSPENDING");
    rotation.set().await?;
    println!("2 set     PostgreSQL has the new password, and refuses the one that is still AWSCURRENT");
    if let Some(window) = window {
        println!("          staying here for {} (Ctrl-C: no longer)", humantime::format_duration(window));
        println!("          open connections work on; whoever must log in now can only do so with AWSPENDING");
        tokio::select! {
            () = watch(admin, name, &version) => (),
            () = tokio::time::sleep(window) => (),
            _ = tokio::signal::ctrl_c() => (),
        }
    }
    rotation.test().await?;
    println!("3 test    logged in with the new password");
    rotation.finish().await?;
    println!("4 finish  the new version is AWSCURRENT, the old one AWSPREVIOUS");
    Ok(version)
}

/// Says what the service holds, whenever that changes. What goes wrong here must not end a rotation halfway.
async fn watch(admin: &Admin, name: &str, pending: &str) {
    let mut said = String::new();
    loop {
        if let Ok(status) = admin.status().await
            && let (Some(version), Some(stage)) = (status.version(name), status.stage(name))
        {
            let when = if version == pending { "already" } else { "still" };
            let says = format!("generation {} {when} holds version {version} ({stage})", status.generation());
            if says != said {
                println!("          {says}");
                said = says;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn replace(running: &Running, credential: &Credential) -> Result<String, Failure> {
    let Credential { id, kind, .. } = credential;
    let value = match kind.as_str() {
        "signing_keys" => random_key(),
        "api_key" => random(),
        other => return Err(Failure::new(format!("cargo dev cannot invent a `{other}`"))),
    };
    let version = Manager::at(&running.manager).put(id, &value).await?;
    println!("{id}: version {version} is AWSCURRENT");
    Ok(version)
}

/// Waits until the version is in service, in whichever generation: one of the window stays when the label moves.
async fn in_service(admin: &Admin, name: &str, version: &str) -> Result<u64, Failure> {
    let give_up = Instant::now() + Duration::from_secs(10);
    while Instant::now() < give_up {
        let status = admin.status().await?;
        if status.version(name) == Some(version) {
            return Ok(status.generation());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Failure::new(format!("the service did not take it up within 10 s; its log and {} say why", admin.url)))
}
