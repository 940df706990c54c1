//! HashiCorp Vault and OpenBao. Only this module and its settings ([`VaultConfig`]) know them.
//!
//! ```text
//! fetch ─► session (log in, if there is none) ─► servers (one after the other) ─► answer of the engine
//! ```

mod client;
mod engine;
mod failure;
mod files;
mod kv;
mod lease;
mod login;
mod logins;
mod path;
mod remedies;
mod servers;
mod sessions;

pub(crate) use self::path::VaultPath;
use self::{
    client::{VaultAnswer, VaultCall},
    lease::VaultLease,
    login::VaultLogin,
    logins::IssuedLogin,
    path::VaultEngine,
    servers::VaultServers,
    sessions::{SessionUse, VaultSession, VaultSessions},
};
use super::{
    id::{SecretId, VersionId},
    lease::{LeaseCalls, SecretLease},
    source::{Fetched, Operation, Source, SourceError},
    version::{SecretValue, Stage, Versions},
};
use crate::config::settings::vault::VaultConfig;
use axum::http::StatusCode;
use futures_util::future::{BoxFuture, join_all};
use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
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
    login: Arc<VaultLogin>,
    sessions: VaultSessions,
    leases: Mutex<Vec<Weak<VaultLease>>>,
}

impl Vault {
    /// Makes a client. Asks for nothing yet, and reads no file. After a login that is denied, the same one is tried again
    /// after `pause` at the earliest.
    pub fn new(config: &VaultConfig, pause: Duration) -> Self {
        let servers = Arc::new(VaultServers::new(config));
        let login = Arc::new(VaultLogin::new(config));
        let sessions = VaultSessions::new(login.clone(), servers.clone(), pause);
        Self { config: config.clone(), servers, login, sessions, leases: Mutex::default() }
    }

    /// Returns the answer to a call, with the token of a session. A denial may mean that the token has ended, or that the
    /// role has got another policy since. So a session that is not new is replaced by another one, and asked with again.
    async fn read(&self, path: &str) -> Result<VaultAnswer, SourceError> {
        Ok(self.read_in_session(path, SessionUse::Read).await?.0)
    }

    async fn read_in_session(
        &self,
        path: &str,
        wanted_for: SessionUse,
    ) -> Result<(VaultAnswer, Arc<VaultSession>), SourceError> {
        let deadline = Instant::now() + ATTEMPT;
        let session = self.sessions.current(wanted_for, None, deadline).await?;
        let answer = self.read_with(&session, path, deadline).await?;
        if answer.status != StatusCode::FORBIDDEN || session.is_new() {
            return Ok((answer, session));
        }
        let next = self.sessions.current(wanted_for, Some(&session), deadline).await?;
        Ok((self.read_with(&next, path, deadline).await?, next))
    }

    async fn read_with(
        &self,
        session: &Arc<VaultSession>,
        path: &str,
        deadline: Instant,
    ) -> Result<VaultAnswer, SourceError> {
        self.servers.ask(&VaultCall::get(path, session.token()), deadline).await
    }

    /// Has a login made.
    async fn issue(&self, path: VaultPath<'_>) -> Result<SecretValue, SourceError> {
        let (answer, session) = self.read_in_session(&path.of_value(), SessionUse::Lease).await?;
        let IssuedLogin { text, version, lease_id, granted } = logins::issued(path, &answer)?;
        let left = session.left().map_or(granted, |left| left.min(granted));
        let lease = Arc::new(VaultLease::new(lease_id, granted, session, self.login.clone(), self.servers.clone()));
        {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.retain(|lease| lease.strong_count() > 0);
            leases.push(Arc::downgrade(&lease));
        }
        Ok(SecretValue { text, version, created: None, lease: Some(SecretLease::new(left, lease)) })
    }

    /// Gives all leases back.
    async fn give_leases_back(&self) {
        let leases: Vec<_> = {
            let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.iter().filter_map(Weak::upgrade).collect()
        };
        join_all(leases.iter().map(|lease| lease.give_back())).await;
    }

    /// Returns the path of an id. The configuration was checked, so this fails only for an id that a replica has from
    /// another configuration.
    fn path<'a>(&self, id: &'a SecretId) -> Result<VaultPath<'a>, SourceError> {
        VaultPath::parse(id).ok_or_else(|| SourceError::Missing(format!("an id here is {}", VaultPath::EXPECTED)))
    }
}

impl Vault {
    async fn fetch_from_kv(
        &self,
        path: VaultPath<'_>,
        stage: Stage,
        held: Option<&VersionId>,
    ) -> Result<Fetched, SourceError> {
        let current = path.of_value();
        match stage {
            Stage::Current => kv::value(path, &self.read(&current).await?, held),
            // A write makes a version current at once.
            Stage::Pending => Ok(Fetched::Absent),
            Stage::Previous => match kv::number(path, &self.read(&current).await?)?.checked_sub(1) {
                None | Some(0) => Ok(Fetched::Absent),
                Some(previous) => kv::value(path, &self.read(&format!("{current}?version={previous}")).await?, held),
            },
        }
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
            match path.engine {
                VaultEngine::Kv => self.fetch_from_kv(path, stage, held).await,
                // The other engines have one version.
                _ if stage != Stage::Current => Ok(Fetched::Absent),
                VaultEngine::Creds => self.issue(path).await.map(Fetched::New),
                VaultEngine::StaticCreds => logins::rotated(path, &self.read(&path.of_value()).await?, held),
            }
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async move {
            let path = self.path(id)?;
            let answer = self.read(&path.of_versions()).await?;
            match path.engine {
                VaultEngine::Kv => kv::versions(path, &answer),
                VaultEngine::StaticCreds => logins::versions_of_rotated(path, &answer),
                // Each process has its own.
                VaultEngine::Creds => Ok(Versions::new()),
            }
        })
    }

    fn is_made_at_each_read(&self, id: &SecretId) -> bool {
        VaultPath::parse(id).is_some_and(|path| path.engine == VaultEngine::Creds)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // A lease ends with its token. That of a token file stays.
            if !self.login.owns_tokens() {
                self.give_leases_back().await;
            }
            self.sessions.end().await;
        })
    }

    fn remedy(&self, id: &SecretId, error: &SourceError, operation: Operation) -> Cow<'static, str> {
        remedies::remedy(&self.config, id, error, operation)
    }
}
