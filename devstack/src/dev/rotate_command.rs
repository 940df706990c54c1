mod served;

use std::time::{Duration, Instant};

use devstack::{Authority, Emulator, Identity, LeakDetector, Rotation, Validity, random, random_key};
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::dev_client::DevClient;
use super::dev_state::{self, Running};
use super::project::Credential;
use super::status_client::StatusClient;

/// Rotates a credential of the running service, and waits until it is in service.
#[derive(clap::Args)]
pub(crate) struct RotateCommand {
    /// Its name: `database`, `signing`, `webhook`, … `tls` is short for `server_tls`.
    #[arg(value_name = "CREDENTIAL")]
    name: String,
    /// Do not send SIGHUP; the service finds the new version by itself, sooner or later.
    #[arg(long)]
    no_signal: bool,
    /// Stay so long in the window in which the database refuses AWSCURRENT, as in `20s`, `1m` or `500ms`.
    #[arg(long, value_name = "DURATION")]
    window: Option<humantime::Duration>,
    /// The new certificate is good for so long, as in `6d`; else for 90 days.
    #[arg(long, value_name = "DURATION")]
    expires: Option<humantime::Duration>,
}

/// The credential of the listeners, and what it is called for short.
const TLS: (&str, &str) = ("server_tls", "tls");

/// How long a certificate is good for that nobody wants otherwise.
const DAYS: u32 = 90;

/// What comes in place of a credential.
enum New {
    Login,
    Text(String),
    Certificate(Identity, Validity),
}

impl RotateCommand {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let state = dev_state::find()?;
        let running = state.running()?;
        let dev_client = DevClient::of(&running.credentials)?;
        let credential = self.credential(running)?;
        let new = self.replacement(credential, &dev_client.authority)?;
        let admin = StatusClient::new(&running.admin, &dev_client);
        let before = admin.status().await?;
        let (pid, name) = (before.pid()?, &credential.name);
        let version = match &new {
            New::Login => rotate_login(running, credential, &admin, self.window.map(Into::into)).await?,
            New::Text(value) => replace(running, credential, value).await?,
            New::Certificate(identity, validity) => {
                let version = replace(running, credential, &identity.secret()).await?;
                let until = humantime::format_rfc3339_seconds(validity.until);
                println!("its certificate is for localhost, 127.0.0.1 and ::1, until {until}");
                version
            }
        };
        if before.version(name).is_none() {
            println!("the service does not hold `{name}`: there is nothing to reload");
        } else if running.pids.service.is_none() {
            // What has that number here is another process.
            println!("not telling the service, which runs elsewhere: its command `reload --wait` there does");
        } else if self.no_signal {
            println!("not telling the service: `kill -HUP {pid}` would; {} shows what it holds", admin.url);
        } else {
            println!("SIGHUP to process {pid}");
            devstack::send_signal(pid, devstack::Signal::HUP)?;
            let after = in_service(&admin, name, &version).await?;
            println!("generation {} -> {after}, version {version} in service", before.generation());
            if let New::Certificate(identity, _) = new
                && name == TLS.0
            {
                shown_by_listeners(running, &identity, &dev_client).await?;
            }
        }
        Ok(())
    }

    fn credential<'a>(&self, running: &'a Running) -> Result<&'a Credential, Failure> {
        let find = |name: &str| running.credentials.iter().find(|credential| credential.name == name);
        let found = find(&self.name).or_else(|| find(TLS.0).filter(|_| self.name == TLS.1));
        found.ok_or_else(|| {
            let names: Vec<_> = running.credentials.iter().map(|credential| credential.name.as_str()).collect();
            Failure::new(format!("the service has no credential `{}`; it has {}", self.name, names.join(", ")))
        })
    }

    fn replacement(&self, credential: &Credential, authority: &Authority) -> Result<New, Failure> {
        let Credential { name, kind, .. } = credential;
        let refused = |why| Err(Failure::new(format!("`{name}` is no {why}")));
        Ok(match kind.as_str() {
            kind if kind != "login" && self.window.is_some() => return refused("login: its rotation has no window"),
            kind if kind != "tls_identity" && self.expires.is_some() => return refused("certificate: it has no end"),
            "login" => New::Login,
            "signing_keys" => New::Text(random_key()),
            "api_key" => New::Text(random()),
            "client_ca" => New::Text(authority.certificate().into()),
            "tls_identity" => {
                let wanted = self.expires.map(|length| Validity::lasting(*length));
                let validity = wanted.unwrap_or_else(|| Validity::days(DAYS));
                New::Certificate(authority.local(validity), validity)
            }
            other => return Err(Failure::new(format!("cargo dev cannot invent a `{other}`"))),
        })
    }
}

async fn rotate_login(
    running: &Running,
    credential: &Credential,
    admin: &StatusClient,
    window: Option<Duration>,
) -> Result<String, Failure> {
    let Credential { name, id, .. } = credential;
    let client = Emulator::at(&running.manager).client();
    let rotation = Rotation::new(client, name, id, running.database.clone(), LeakDetector::default());
    let version = rotation.version().to_owned();
    rotation.create_pending().await?;
    println!("1 create  {id}: version {version} is AWSPENDING");
    rotation.set().await?;
    println!("2 set     PostgreSQL has the new password, and refuses the one that is still AWSCURRENT");
    if let Some(window) = window {
        let mut interrupts = signal(SignalKind::interrupt()).expect("it may be handled");
        println!("          staying here for {} (Ctrl-C: no longer)", humantime::format_duration(window));
        println!("          open connections work on; whoever must log in now can only do so with AWSPENDING");
        tokio::select! {
            () = watch(admin, name, &version) => (),
            () = tokio::time::sleep(window) => (),
            _ = interrupts.recv() => (),
        }
    }
    rotation.test().await?;
    println!("3 test    logged in with the new password");
    rotation.finish().await?;
    println!("4 finish  the new version is AWSCURRENT, the old one AWSPREVIOUS");
    Ok(version)
}

/// Says what the service holds, whenever that changes. What goes wrong here must not end a rotation halfway.
async fn watch(admin: &StatusClient, name: &str, pending: &str) {
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

async fn replace(running: &Running, credential: &Credential, value: &str) -> Result<String, Failure> {
    let Credential { id, .. } = credential;
    let version = Emulator::at(&running.manager).put(id, value).await?;
    println!("{id}: version {version} is AWSCURRENT");
    Ok(version)
}

/// Whoever has TLS shows the certificate by now to who connects.
async fn shown_by_listeners(running: &Running, identity: &Identity, dev_client: &DevClient) -> Result<(), Failure> {
    for url in [&running.public, &running.admin] {
        if url.starts_with("https://") {
            served::served(url, identity, dev_client).await?;
            println!("{url} shows the new certificate to who connects now");
        }
    }
    Ok(())
}

/// Waits until the version is in service, in whichever generation: one of the window stays when the label moves.
async fn in_service(admin: &StatusClient, name: &str, version: &str) -> Result<u64, Failure> {
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
