//! HashiCorp Vault and OpenBao. Only this module and its settings ([`VaultConfig`]) know them.
//!
//! ```text
//! fetch ─► session (log in, if there is none) ─► servers (one after the other) ─► answer of the engine
//! ```

mod calls;
mod certificates;
mod client;
mod engine;
mod failure;
mod files;
pub(crate) mod fuzzing;
mod kv;
mod lease;
mod login;
mod logins;
mod path;
pub(crate) mod policy;
mod remedies;
mod servers;
mod sessions;
mod tls;

#[cfg(test)]
mod tests;

pub(crate) use self::path::VaultPath;
use self::{
    calls::CallsUnderWay,
    certificates::StoredAtEngine,
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
use crate::config::settings::{
    SecretsConfig,
    vault::{VaultConfig, VaultIssueConfig},
};
use axum::http::{HeaderValue, StatusCode};
use futures_util::future::{BoxFuture, join_all};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

/// The time for one attempt, with its login and with each address. The framework gives an attempt 5 s, and knows less about
/// what takes so long.
const ATTEMPT: Duration = Duration::from_millis(4500);

/// The time for which a login is not used that is due to be rotated: an engine looks for due ones every 5 s. If it
/// cannot rotate this one, the database still accepts it.
const ROTATION: Duration = Duration::from_secs(6);

/// The part of the time for closing that calls under way may take. The rest is for giving back what they have made.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// The part of the time for closing that giving leases back may take. The rest is for ending the tokens.
const LEASES: Duration = Duration::from_millis(500);

/// A client of Vault or OpenBao.
///
/// It is a thin one. It logs in when a secret is asked for, and again in time. It keeps no value.
pub struct Vault {
    inner: Arc<VaultInner>,
    calls: CallsUnderWay,
}

struct VaultInner {
    config: VaultConfig,
    servers: Arc<VaultServers>,
    sessions: Arc<VaultSessions>,
    leases: Mutex<Vec<Weak<VaultLease>>>,
    /// The certificates to issue, by their ids.
    issue: BTreeMap<SecretId, VaultIssueConfig>,
    /// The version of each login that was due to be rotated when it was read, and the time of the first such read.
    rotations: Mutex<BTreeMap<SecretId, (VersionId, Instant)>>,
}

impl Vault {
    /// Makes a client. Asks for nothing yet, and reads no file. After a login that is denied, the same one is tried again
    /// after `secrets.probe_every` at the earliest, and seldom if the server counts it as a wrong one.
    pub fn new(secrets: &SecretsConfig) -> Self {
        let config = &secrets.vault;
        let issue = config.issue.iter();
        let issue = issue.filter_map(|(name, issue)| Some((secrets.ids.get(name)?.clone(), issue.clone()))).collect();
        let servers = Arc::new(VaultServers::new(config));
        let login = Arc::new(VaultLogin::new(config));
        let calls = CallsUnderWay::new();
        let sessions = Arc::new(VaultSessions::new(login, servers.clone(), secrets.probe_every, calls.clone()));
        let (leases, rotations) = (Mutex::default(), Mutex::default());
        let inner = VaultInner { config: config.clone(), servers, sessions, leases, issue, rotations };
        Self { inner: Arc::new(inner), calls }
    }
}

impl VaultInner {
    /// Returns the answer to a call, with the token of a session. A denial may mean that the token has ended, or that the
    /// role has got another policy since. So a session that is not new is replaced by another one, and asked with again.
    async fn ask<'a>(
        &self,
        wanted_for: SessionUse,
        call: impl Fn(&HeaderValue) -> VaultCall<'a>,
    ) -> Result<(VaultAnswer, Arc<VaultSession>), SourceError> {
        let deadline = Instant::now() + ATTEMPT;
        let session = self.sessions.current(wanted_for, None, deadline).await?;
        if wanted_for == SessionUse::Lease && session.is_batch() {
            let problem = "its tokens are batch tokens, whose leases nobody can renew (token_type)";
            return Err(SourceError::NoIdentity(problem.into()));
        }
        let answer = self.servers.ask(&call(session.token()), deadline).await?;
        if answer.status != StatusCode::FORBIDDEN || session.is_new() {
            return Ok((answer, session));
        }
        let next = self.sessions.current(wanted_for, Some(&session), deadline).await?;
        Ok((self.servers.ask(&call(next.token()), deadline).await?, next))
    }

    async fn read(&self, path: &str) -> Result<VaultAnswer, SourceError> {
        Ok(self.ask(SessionUse::Read, |token| VaultCall::get(path, token)).await?.0)
    }

    /// Has a certificate issued.
    async fn issue_certificate(&self, id: &SecretId, path: VaultPath<'_>) -> Result<SecretValue, SourceError> {
        let Some(issue) = self.issue.get(id) else {
            return Err(SourceError::Missing("no section [secrets.vault.issue.NAME] says what to issue".into()));
        };
        let (place, body) = (path.of_value(), certificates::request(issue));
        let (answer, session) = self.ask(SessionUse::Read, |token| VaultCall::post(&place, token, &body)).await?;
        let issued = certificates::issued(path, &answer)?;
        let (version, servers) = (issued.version(), self.servers.clone());
        let calls = StoredAtEngine { id: id.clone(), serial: issued.serial, session, servers };
        let lease = SecretLease::new(issued.left, Arc::new(calls));
        Ok(SecretValue { text: issued.text, version, created: None, lease: Some(lease) })
    }

    /// Has a login made.
    async fn issue_login(&self, path: VaultPath<'_>) -> Result<SecretValue, SourceError> {
        let (place, asked) = (path.of_value(), Instant::now());
        let (answer, session) = self.ask(SessionUse::Lease, |token| VaultCall::make(&place, token)).await?;
        let IssuedLogin { text, version, lease_id, granted } = logins::issued(path, &answer)?;
        let left = granted.saturating_sub(asked.elapsed());
        let left = session.left().map_or(left, |of_session| of_session.min(left));
        let lease = Arc::new(VaultLease::new(lease_id, granted, session, self.sessions.clone()));
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

    async fn fetch(&self, id: &SecretId, stage: Stage, held: Option<&VersionId>) -> Result<Fetched, SourceError> {
        let path = self.path(id)?;
        match path.engine {
            VaultEngine::Kv => self.fetch_from_kv(path, stage, held).await,
            // The other engines have one version.
            _ if stage != Stage::Current => Ok(Fetched::Absent),
            VaultEngine::Creds => self.issue_login(path).await.map(Fetched::New),
            VaultEngine::Issue => self.issue_certificate(id, path).await.map(Fetched::New),
            VaultEngine::StaticCreds => {
                let answer = self.read(&path.of_value()).await?;
                logins::rotated(path, &answer, held, |version| self.may_be_rotated_soon(id, version))
            }
        }
    }

    /// Returns `true` for the first [`ROTATION`] in which this version of a login is due to be rotated.
    fn may_be_rotated_soon(&self, id: &SecretId, version: &VersionId) -> bool {
        let mut rotations = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        let due = rotations.entry(id.clone()).or_insert_with(|| (version.clone(), Instant::now()));
        if due.0 != *version {
            *due = (version.clone(), Instant::now());
        }
        due.1.elapsed() < ROTATION
    }

    async fn versions(&self, id: &SecretId) -> Result<Versions, SourceError> {
        let path = self.path(id)?;
        match path.engine {
            VaultEngine::Kv => kv::versions(path, &self.read(&path.of_metadata()).await?),
            VaultEngine::StaticCreds => logins::versions_of_rotated(path, &self.read(&path.of_metadata()).await?),
            // Each process has its own.
            VaultEngine::Creds | VaultEngine::Issue => Ok(Versions::new()),
        }
    }

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
        let (inner, id, held) = (self.inner.clone(), id.clone(), held.cloned());
        self.calls.to_its_end(async move { inner.fetch(&id, stage, held.as_ref()).await })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        let (inner, id) = (self.inner.clone(), id.clone());
        self.calls.to_its_end(async move { inner.versions(&id).await })
    }

    fn is_made_at_each_read(&self, id: &SecretId) -> bool {
        VaultPath::parse(id).is_some_and(|path| path.engine.makes_values())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // One that hangs must leave time for the rest.
            let _ = timeout(UNDER_WAY, self.calls.wait()).await;
            // The end of the token ends its leases, too.
            let _ = timeout(LEASES, self.inner.give_leases_back()).await;
            self.inner.sessions.end().await;
        })
    }

    fn token_end(&self) -> Option<OffsetDateTime> {
        self.inner.sessions.newest_end()
    }

    fn login_failed(&self) -> Option<bool> {
        Some(self.inner.sessions.login_failed())
    }

    fn remedy(&self, id: &SecretId, error: &SourceError, operation: Operation) -> Cow<'static, str> {
        remedies::remedy(&self.inner.config, id, error, operation)
    }
}
