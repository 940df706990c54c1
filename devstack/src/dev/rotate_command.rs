//! `cargo dev rotate`: a new version of a credential.

mod login_rotation;
mod replacement;
mod served_certificate;

use std::time::Duration;

use rustix::process::Signal;

use crate::dev::dev_client::DevClient;
use crate::dev::dev_lock;
use crate::dev::dev_state::RunningStack;
use crate::dev::error::DevError;
use crate::dev::issuer_client::IssuerClient;
use crate::dev::rotate_command::login_rotation::rotate_login;
use crate::dev::rotate_command::replacement::Replacement;
use crate::dev::rotate_command::served_certificate::wait_until_served;
use crate::dev::secrets_manager::StackManager;
use crate::dev::status_client::{ServiceStatus, StatusClient};
use crate::stack::authority::identity::Identity;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::polling::Polling;
use crate::stack::supervised_process::send_signal;

/// The credential of the listeners, and its short name.
const TLS: (&str, &str) = ("server_tls", "tls");

/// The name of the issuer's key. It is no credential of the service.
const ISSUER: &str = "auth";

const RELOAD: Polling = Polling { interval: Duration::from_millis(100), limit: Duration::from_secs(10) };

/// Rotates a credential of the running service, and waits until it is in service.
#[derive(clap::Args)]
pub(crate) struct RotateCommand {
    /// Its name: `database`, `signing`, `webhook`, … `tls` is short for `server_tls`. `auth` is the key of the issuer of
    /// tokens that `cargo dev --auth` started.
    #[arg(value_name = "CREDENTIAL")]
    name: String,
    /// Do not send SIGHUP. The service finds the new version itself, sooner or later.
    #[arg(long)]
    no_signal: bool,
    /// Stay for this time in the window in which the database rejects the current version, as in `20s`, `1m` or `500ms`.
    #[arg(long, value_name = "DURATION")]
    window: Option<humantime::Duration>,
    /// The time until the new certificate expires, as in `6d`. The default is 90 days.
    #[arg(long, value_name = "DURATION")]
    expires: Option<humantime::Duration>,
}

impl RotateCommand {
    pub(crate) async fn run(self) -> Result<(), DevError> {
        let state = dev_lock::find_running()?;
        let running = state.ready()?;
        if self.name == ISSUER
            && let Some(issuer) = IssuerClient::new(running)
        {
            issuer.rotate().await?;
            println!(
                "the issuer signs with a new key: the service fetches it once a request bears a token of it: cargo dev token"
            );
            return Ok(());
        }
        let dev_client = DevClient::new(&running.credentials)?;
        let credential = self.credential(running)?;
        self.check_options(credential)?;
        let expires = self.expires.map(Into::into);
        let replacement = Replacement::random(credential, &dev_client.authority, expires)?;
        let status_client = StatusClient::new(&running.admin, &dev_client);
        let before = status_client.status().await?;
        let name = &credential.name;
        if is_leased(credential) {
            return self.revoke(running, credential, &status_client, &before).await;
        }
        let version = self.put(running, credential, &replacement, &status_client).await?;
        if before.version(name).is_none() {
            println!("the service does not hold `{name}`: there is nothing to reload");
        } else if let Some(pid) = running.pids.service {
            if self.no_signal {
                println!("not telling the service: `kill -HUP {pid}` would; {} shows what it holds", status_client.url);
                return Ok(());
            }
            println!("SIGHUP to process {pid}");
            send_signal(pid, Signal::HUP)?;
            let after = wait_until_in_service(&status_client, name, |held| held == version).await?;
            println!("generation {} -> {after}, version {version} in service", before.generation());
            if let Replacement::Certificate(identity, _) = replacement
                && name == TLS.0
            {
                wait_for_listeners(running, &identity, &dev_client).await?;
            }
        } else {
            println!("not telling the service, which runs elsewhere: its command `reload --wait` there does");
        }
        Ok(())
    }

    /// Finds the credential by its name or its short name.
    fn credential<'a>(&self, running: &'a RunningStack) -> Result<&'a DeclaredCredential, DevError> {
        let mut wanted = &*self.name;
        let declares = |name: &str| running.credentials.iter().any(|credential| credential.name == name);
        if wanted == TLS.1 && !declares(wanted) {
            wanted = TLS.0;
        }
        if let Some(found) = running.credentials.iter().find(|credential| credential.name == wanted) {
            return Ok(found);
        }
        let names: Vec<_> = running.credentials.iter().map(|credential| credential.name.as_str()).collect();
        Err(DevError::new(format!("the service has no credential `{}`; it has {}", self.name, names.join(", "))))
    }

    /// Rejects options that do not fit the credential's kind.
    fn check_options(&self, credential: &DeclaredCredential) -> Result<(), DevError> {
        let DeclaredCredential { name, kind, .. } = credential;
        if self.window.is_some() && (kind != "login" || is_leased(credential)) {
            let what = if kind == "login" { "has a lease" } else { "is no login" };
            return Err(DevError::new(format!("`{name}` {what}: its rotation has no window")));
        }
        if self.expires.is_some() && kind != "tls_identity" {
            return Err(DevError::new(format!("`{name}` is no certificate: it has no end")));
        }
        Ok(())
    }

    /// Ends all leases of a login, with their users and the sessions of those. Waits until the service has another user.
    async fn revoke(
        &self,
        running: &RunningStack,
        credential: &DeclaredCredential,
        status_client: &StatusClient,
        before: &ServiceStatus,
    ) -> Result<(), DevError> {
        let DeclaredCredential { name, id, .. } = credential;
        StackManager::at(&running.manager)?.revoke_leases(id).await?;
        println!("{id}: OpenBao has ended all leases; PostgreSQL has dropped their users, with their sessions");
        println!("requests that use one of those sessions fail");
        let Some(user) = before.version(name) else {
            println!("the service does not hold `{name}`: there is nothing to reload");
            return Ok(());
        };
        if let Some(pid) = running.pids.service.filter(|_| !self.no_signal) {
            println!("SIGHUP to process {pid}");
            send_signal(pid, Signal::HUP)?;
        }
        let after = wait_until_in_service(status_client, name, |held| held != user).await?;
        println!("generation {} -> {after}, another user in service", before.generation());
        Ok(())
    }

    /// Stores the new version, and returns its id.
    async fn put(
        &self,
        running: &RunningStack,
        credential: &DeclaredCredential,
        replacement: &Replacement,
        status_client: &StatusClient,
    ) -> Result<String, DevError> {
        match replacement {
            Replacement::Login => rotate_login(running, credential, status_client, self.window.map(Into::into)).await,
            Replacement::Text(value) => put_value(running, credential, value).await,
            Replacement::Certificate(identity, validity) => {
                let version = put_value(running, credential, &identity.secret()).await?;
                let until = humantime::format_rfc3339_seconds(validity.until);
                println!("its certificate is for localhost, 127.0.0.1 and ::1, until {until}");
                Ok(version)
            }
        }
    }
}

/// Says if OpenBao makes this credential, with a lease, at each read.
fn is_leased(credential: &DeclaredCredential) -> bool {
    credential.id.starts_with("database/creds/")
}

async fn put_value(running: &RunningStack, credential: &DeclaredCredential, value: &str) -> Result<String, DevError> {
    let id = &credential.id;
    let version = StackManager::at(&running.manager)?.put(id, value).await?;
    let current = if running.manager.openbao_token.is_none() { "AWSCURRENT" } else { "current" };
    println!("{id}: version {version} is {current}");
    Ok(version)
}

/// Waits until every listener with TLS shows the certificate in new connections.
async fn wait_for_listeners(
    running: &RunningStack,
    identity: &Identity,
    dev_client: &DevClient,
) -> Result<(), DevError> {
    for url in [&running.public, &running.admin] {
        if url.starts_with("https://") {
            wait_until_served(url, identity, dev_client).await?;
            println!("{url} shows the new certificate in new connections");
        }
    }
    Ok(())
}

/// Waits until a wanted version is in service, and returns the generation. It is no new generation if the service loaded the
/// version in the window already.
async fn wait_until_in_service(
    status_client: &StatusClient,
    name: &str,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<u64, DevError> {
    let in_service = RELOAD.until_async(async || match status_client.status().await {
        Ok(status) if status.version(name).is_some_and(&is_wanted) => Some(Ok(status.generation())),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    match in_service.await {
        Some(outcome) => outcome,
        None => Err(DevError::new(format!(
            "the service did not reload it within 10 s; its log and {} say why",
            status_client.url
        ))),
    }
}
