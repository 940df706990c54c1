//! HashiCorp Vault and OpenBao. Only this module and its settings ([`VaultConfig`]) know them.
//!
//! ```text
//! fetch ─► session (log in, if there is none) ─► servers (one after the other) ─► KV answer
//! ```

mod client;
mod failure;
mod files;
pub(crate) mod fuzzing;
mod kv;
mod login;
mod path;
mod remedies;
mod servers;
mod sessions;
mod tls;

#[cfg(test)]
mod tests;

pub(crate) use self::path::VaultPath;
use self::{
    client::{VaultAnswer, VaultCall},
    login::VaultLogin,
    servers::VaultServers,
    sessions::{VaultSession, VaultSessions},
};
use super::{
    id::{SecretId, VersionId},
    source::{Fetched, Operation, Source, SourceError},
    version::{Stage, Versions},
};
use crate::config::settings::vault::VaultConfig;
use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio::time::Instant;

/// The time for one attempt, with its login and with each address. The framework gives an attempt 5 s, and knows less about
/// what takes so long.
const ATTEMPT: Duration = Duration::from_millis(4500);

/// A client of Vault or OpenBao.
///
/// It is a thin one. It logs in when a secret is asked for, and again in time. It keeps no value.
pub struct Vault {
    config: VaultConfig,
    servers: Arc<VaultServers>,
    sessions: VaultSessions,
}

impl Vault {
    /// Makes a client. Asks for nothing yet, and reads no file. After a login that is denied, the same one is tried again
    /// after `pause` at the earliest.
    pub fn new(config: &VaultConfig, pause: Duration) -> Self {
        Self {
            config: config.clone(),
            servers: Arc::new(VaultServers::new(config)),
            sessions: VaultSessions::new(VaultLogin::new(config), pause),
        }
    }

    /// Returns the answer to a call, with the token of a session. A denial may mean that the token has ended, or that the
    /// role has got another policy since. So a session that is not new is replaced by another one, and asked with again.
    async fn read(&self, path: &str) -> Result<VaultAnswer, SourceError> {
        let deadline = Instant::now() + ATTEMPT;
        let session = self.sessions.current(&self.servers, None, deadline).await?;
        let answer = self.read_with(&session, path, deadline).await?;
        if answer.status != StatusCode::FORBIDDEN || session.is_new() {
            return Ok(answer);
        }
        let next = self.sessions.current(&self.servers, Some(&session), deadline).await?;
        self.read_with(&next, path, deadline).await
    }

    async fn read_with(
        &self,
        session: &Arc<VaultSession>,
        path: &str,
        deadline: Instant,
    ) -> Result<VaultAnswer, SourceError> {
        self.servers.ask(&VaultCall::get(path, session.token()), deadline).await
    }

    /// Returns the path of an id. The configuration was checked, so this fails only for an id that a replica has from
    /// another configuration.
    fn path<'a>(&self, id: &'a SecretId) -> Result<VaultPath<'a>, SourceError> {
        VaultPath::parse(id).ok_or_else(|| SourceError::Missing(format!("an id here is {}", VaultPath::EXPECTED)))
    }
}

impl Source for Vault {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let path = self.path(id)?;
            match stage {
                Stage::Current => {
                    let answer = self.read(&path.data(None)).await?;
                    kv::value(&path, &answer, held)
                }
                // A write makes a version current at once.
                Stage::Pending => Ok(Fetched::Absent),
                Stage::Previous => {
                    let current = kv::number(&path, &self.read(&path.data(None)).await?)?;
                    match current.checked_sub(1) {
                        None | Some(0) => Ok(Fetched::Absent),
                        Some(previous) => {
                            let answer = self.read(&path.data(Some(previous))).await?;
                            kv::value(&path, &answer, held)
                        }
                    }
                }
            }
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async move {
            let path = self.path(id)?;
            kv::versions(&path, &self.read(&path.metadata()).await?)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.sessions.end(&self.servers))
    }

    fn remedy(&self, id: &SecretId, error: &SourceError, operation: Operation) -> Cow<'static, str> {
        remedies::remedy(&self.config, id, error, operation)
    }
}
