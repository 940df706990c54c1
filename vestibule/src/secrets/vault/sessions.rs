//! The session of this process: a token, and the time at which the next one is due.

use super::{client::VaultCall, login::VaultLogin, servers::VaultServers};
use crate::secrets::source::SourceError;
use axum::http::HeaderValue;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// The part of a token's lifetime after which the process logs in again.
const RENEW_AT: f64 = 0.85;

/// The age below which a session is new: a denial is not due to its token.
const NEW: Duration = Duration::from_secs(5);

/// The same for a session that was begun because of a denial. A path that is denied for good causes no more logins than this.
const NEW_AFTER_DENIAL: Duration = Duration::from_secs(5 * 60);

/// The part of an attempt that a login may take while the session before has not ended. The rest is for the read.
const EARLY_LOGIN: u32 = 3;

/// The time for revoking a token.
const REVOKE: Duration = Duration::from_secs(2);

/// A token, from its login to its end.
pub(super) struct VaultSession {
    token: HeaderValue,
    since: Instant,
    /// Its end, with the lifetime that it had. `None` if the token does not end.
    end: Option<(Instant, Duration)>,
    /// The age until which it is new.
    new_until: Duration,
}

impl VaultSession {
    /// Makes a session that began at `since`. A lifetime of zero has no end.
    pub(super) fn new(token: HeaderValue, since: Instant, lifetime: Duration) -> Self {
        let end = since.checked_add(lifetime).filter(|_| !lifetime.is_zero()).map(|end| (end, lifetime));
        Self { token, since, end, new_until: NEW }
    }

    pub(super) fn token(&self) -> &HeaderValue {
        &self.token
    }

    pub(super) fn is_new(&self) -> bool {
        self.since.elapsed() < self.new_until
    }

    fn is_due(&self) -> bool {
        self.end.is_some_and(|(_, lifetime)| self.since.elapsed() >= lifetime.mul_f64(RENEW_AT))
    }

    fn has_ended(&self) -> bool {
        self.end.is_some_and(|(end, _)| Instant::now() >= end)
    }
}

/// The session, which all requests share. One login runs at a time.
pub(super) struct VaultSessions {
    login: VaultLogin,
    /// The time for which a login that was denied is not tried again with the same credentials. Servers lock a role after
    /// a few wrong ones (OpenBao: an AppRole after 5, for 15 min), and then deny the right ones too.
    pause: Duration,
    state: Mutex<LoginState>,
}

#[derive(Default)]
struct LoginState {
    session: Option<Arc<VaultSession>>,
    failed: Option<FailedLogin>,
}

struct FailedLogin {
    error: SourceError,
    at: Instant,
    /// The SHA-256 of the credentials.
    credentials: [u8; 32],
}

impl VaultSessions {
    pub(super) fn new(login: VaultLogin, pause: Duration) -> Self {
        Self { login, pause, state: Mutex::default() }
    }

    /// Returns the session. Logs in if there is none, if it is due, or if it is `rejected`.
    ///
    /// # Errors
    /// The error of the login. Those who waited for that login get it too.
    pub(super) async fn current(
        &self,
        servers: &Arc<VaultServers>,
        rejected: Option<&Arc<VaultSession>>,
        deadline: Instant,
    ) -> Result<Arc<VaultSession>, SourceError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let held = state.session.clone().filter(|held| rejected.is_none_or(|other| !Arc::ptr_eq(held, other)));
        if let Some(held) = &held
            && !held.is_due()
        {
            return Ok(held.clone());
        }
        let held = held.filter(|held| !held.has_ended());
        let deadline = match &held {
            Some(_) => deadline.min(asked + deadline.duration_since(asked) / EARLY_LOGIN),
            None => deadline,
        };
        match self.log_in(&mut state, servers, asked, deadline).await {
            Ok(mut session) => {
                if rejected.is_some() {
                    session.new_until = NEW_AFTER_DENIAL;
                }
                let session = Arc::new(session);
                let state_before =
                    std::mem::replace(&mut *state, LoginState { session: Some(session.clone()), failed: None });
                if let Some(replaced) = state_before.session
                    && self.login.owns_tokens()
                {
                    // Nobody waits for it. A request that still has the token is made again with the new one.
                    let servers = servers.clone();
                    tokio::spawn(async move { revoke(&servers, &replaced).await });
                }
                Ok(session)
            }
            // It is due, and serves to its end.
            Err(error) => held.ok_or(error),
        }
    }

    /// Ends the session, if there is one.
    pub(super) async fn end(&self, servers: &VaultServers) {
        let session = self.state.lock().await.session.take();
        if let Some(session) = session
            && self.login.owns_tokens()
        {
            revoke(servers, &session).await;
        }
    }

    async fn log_in(
        &self,
        state: &mut LoginState,
        servers: &VaultServers,
        asked: Instant,
        deadline: Instant,
    ) -> Result<VaultSession, SourceError> {
        if let Some(failed) = &state.failed
            && failed.at >= asked
        {
            return Err(failed.error.clone());
        }
        let credentials = self.login.credentials().await?;
        let digest = credentials.digest();
        if let Some(failed) = &state.failed
            && failed.error.is_denial()
            && failed.credentials == digest
            && failed.at.elapsed() < self.pause
        {
            return Err(failed.error.clone());
        }
        servers.forget_connections();
        let session = self.login.log_in(servers, &credentials, deadline).await;
        if let Err(error) = &session {
            state.failed = Some(FailedLogin { error: error.clone(), at: Instant::now(), credentials: digest });
        }
        session
    }
}

/// Revokes the token of a session that is not used any more.
async fn revoke(servers: &VaultServers, session: &VaultSession) {
    let call = VaultCall::post("auth/token/revoke-self", session.token());
    if let Err(error) = servers.ask(&call, Instant::now() + REVOKE).await {
        tracing::warn!(%error, "could not revoke a token of this process; it ends by itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_with_its_token_and_one_of_any_lifetime_can_be_made() {
        let session = |lifetime| VaultSession::new(HeaderValue::from_static("t"), Instant::now(), lifetime);
        let (hour, longest) = (session(Duration::from_secs(3600)), session(Duration::from_secs(u64::MAX)));
        assert!(hour.is_new() && !hour.is_due());
        tokio::time::advance(Duration::from_secs(3100)).await;
        assert!(!hour.is_new() && hour.is_due() && !hour.has_ended());
        tokio::time::advance(Duration::from_secs(500)).await;
        assert!(hour.has_ended() && !longest.is_due() && !longest.has_ended());
    }
}
