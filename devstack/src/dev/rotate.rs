use std::time::{Duration, Instant};

use devstack::reqwest::Client;
use devstack::{Manager, Planted, Rotation, random, random_key};
use serde_json::Value;

use super::Failure;
use super::project::Credential;
use super::state::{self, Running};

/// Rotates a credential of the running service, and waits until it is in service.
pub(crate) async fn rotate(name: &str, tell: bool, linger: Duration) -> Result<(), Failure> {
    let state = state::find()?;
    let Some(running) = &state.running else {
        return Err(Failure::new(format!("it is not ready yet: {}", state.describe())));
    };
    let Some(credential) = running.credentials.iter().find(|credential| credential.name == name) else {
        let names: Vec<_> = running.credentials.iter().map(|credential| credential.name.as_str()).collect();
        return Err(Failure::new(format!("the service has no credential `{name}`; it has {}", names.join(", "))));
    };
    let admin = Admin::new(&running.admin);
    let before = admin.status().await?;
    let version = match credential.kind.as_str() {
        "login" => rotate_login(running, credential, linger).await?,
        _ => replace(running, credential).await?,
    };
    if !before.holds(name) {
        println!("the service does not hold `{name}`: there is nothing to reload");
        return Ok(());
    }
    if !tell {
        println!("not telling the service; `kill -HUP {}` would", before.pid()?);
        return Ok(());
    }
    let pid = before.pid()?;
    println!("SIGHUP to process {pid}");
    devstack::send(pid, devstack::Signal::HUP)?;
    admin.in_service(name, &version, before.generation()).await
}

async fn rotate_login(running: &Running, credential: &Credential, linger: Duration) -> Result<String, Failure> {
    let Credential { name, id, .. } = credential;
    let client = Manager::at(&running.manager).client();
    let rotation = Rotation::new(client, name, id, running.database.clone(), Planted::default());
    let version = rotation.version().to_owned();
    rotation.create_pending().await?;
    println!("1 create  {id}: version {version} is AWSPENDING");
    rotation.set().await?;
    println!("2 set     PostgreSQL has the new password, and refuses the one that is still AWSCURRENT");
    if !linger.is_zero() {
        println!("          staying here for {} s", linger.as_secs());
        tokio::time::sleep(linger).await;
    }
    rotation.test().await?;
    println!("3 test    logged in with the new password");
    rotation.finish().await?;
    println!("4 finish  the new version is AWSCURRENT, the old one AWSPREVIOUS");
    Ok(version)
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

/// The service's admin listener.
struct Admin {
    url: String,
    client: Client,
}

struct Status(Value);

impl Admin {
    fn new(address: &str) -> Self {
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
        Self { url: format!("http://{address}/status"), client: client.expect("a client without TLS needs nothing") }
    }

    async fn status(&self) -> Result<Status, Failure> {
        let silent = |error| Failure::new(format!("{} does not answer: {error}", self.url));
        let answer = self.client.get(&self.url).send().await.map_err(silent)?;
        Ok(Status(answer.json().await.map_err(silent)?))
    }

    async fn in_service(&self, name: &str, version: &str, before: u64) -> Result<(), Failure> {
        let give_up = Instant::now() + Duration::from_secs(10);
        while Instant::now() < give_up {
            let status = self.status().await?;
            if status.generation() > before && status.version(name).is_none_or(|held| held == version) {
                println!("generation {before} -> {}, version {version} in service", status.generation());
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(Failure::new(format!("the service did not take it up within 10 s; its log and {} say why", self.url)))
    }
}

impl Status {
    fn generation(&self) -> u64 {
        self.0["generation"].as_u64().unwrap_or(0)
    }

    fn pid(&self) -> Result<u32, Failure> {
        let pid = self.0["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.ok_or_else(|| Failure::new("/status names no pid"))
    }

    fn holds(&self, name: &str) -> bool {
        self.credential(name).is_some()
    }

    fn version(&self, name: &str) -> Option<&str> {
        self.credential(name)?["version"].as_str()
    }

    fn credential(&self, name: &str) -> Option<&Value> {
        self.0["credentials"].as_array()?.iter().find(|credential| credential["name"] == name)
    }
}
