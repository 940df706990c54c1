//! The session of this process: a token, and the time at which the next one is due.

use super::{
    calls::CallsUnderWay,
    client::VaultCall,
    login::{GrantedToken, VaultLogin},
    servers::VaultServers,
};
use crate::{
    moment::{CENTURY, Moment},
    secrets::source::SourceError,
};
use axum::http::HeaderValue;
use futures_util::future::{BoxFuture, join_all};
use std::{
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    runtime::Handle,
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

/// The last part of a token's lifetime, in which the process logs in again before it reads.
const LAST_PART: f64 = 0.15;

/// The same before something is made that ends with the token.
const LAST_PART_FOR_LEASES: f64 = 0.5;

/// The age below which a session is new: a denial is not due to its token.
const NEW: Duration = Duration::from_secs(5);

/// The part of an attempt that a login may take while the session before has not ended. The rest is for the read.
const EARLY_LOGIN: u32 = 3;

/// The time for which a login that the server counts as a wrong one is not tried again after the second try. OpenBao and
/// Vault count those of a role until none has come for 15 min.
const COUNTED: Duration = Duration::from_secs(16 * 60);

/// The time for revoking a token.
const REVOKE: Duration = Duration::from_secs(2);

/// A token, from its login to its end. It is revoked when nobody holds the session any more: neither a request nor a lease
/// that was made in it.
pub(super) struct VaultSession {
    token: HeaderValue,
    since: Moment,
    /// The age until which it is new.
    new_until: Duration,
    lifetime: Duration,
    /// `true` if it is known that the token may ask about itself.
    may_ask: AtomicBool,
    is_batch: bool,
    /// `None` if the token does not end.
    end: std::sync::Mutex<Option<Moment>>,
    servers: Arc<VaultServers>,
    revocations: TaskTracker,
    /// `true` if the token is another's, or was revoked.
    stays: AtomicBool,
}

impl VaultSession {
    pub(super) fn token(&self) -> &HeaderValue {
        &self.token
    }

    /// Returns `true` if it is known that the token may ask about itself: a denial means that it is lost.
    pub(super) fn may_ask(&self) -> bool {
        self.may_ask.load(Ordering::Relaxed)
    }

    /// Records that the server has answered what the token asked about itself.
    pub(super) fn has_asked(&self) {
        self.may_ask.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_batch(&self) -> bool {
        self.is_batch
    }

    pub(super) fn is_new(&self) -> bool {
        self.since.elapsed() < self.new_until
    }

    /// Returns the time until its end, if it ends.
    pub(super) fn left(&self) -> Option<Duration> {
        Some(self.end.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.left())
    }

    pub(super) fn has_ended(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// Returns `true` if the server has ended it. Somebody who sets the wall clock ends nothing there.
    pub(super) fn has_ended_at_server(&self) -> bool {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(Moment::has_come)
    }

    pub(super) fn lasts_until(&self, end: Moment) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// Returns `true` if less of its lifetime is left than this part.
    fn is_due(&self, part: f64) -> bool {
        self.left().is_some_and(|left| left < self.lifetime.mul_f64(part))
    }

    /// Revokes its token, once.
    async fn revoke(&self) {
        if !self.stays.swap(true, Ordering::Relaxed) && !self.has_ended_at_server() {
            revoke(&self.servers, &self.token).await;
            self.lasts_until(Moment::now());
        }
    }
}

impl Drop for VaultSession {
    fn drop(&mut self) {
        if *self.stays.get_mut() || self.has_ended_at_server() {
            return;
        }
        let (servers, token) = (self.servers.clone(), self.token.clone());
        if let Ok(runtime) = Handle::try_current() {
            self.revocations.spawn_on(async move { revoke(&servers, &token).await }, &runtime);
        }
    }
}

/// The session, which all requests share. One login runs at a time.
pub(super) struct VaultSessions {
    login: Arc<VaultLogin>,
    servers: Arc<VaultServers>,
    /// The time for which a login that was denied is not tried again with the same credentials, unless that is [`COUNTED`].
    /// Servers lock a role after a few wrong ones (OpenBao: an AppRole after 5, for 15 min), and then deny the right ones too.
    pause: Duration,
    state: Mutex<LoginState>,
    /// `true` if the last login failed, and the next reads need it.
    login_failed: AtomicBool,
    /// All sessions that somebody holds.
    alive: std::sync::Mutex<Vec<Weak<VaultSession>>>,
    revocations: TaskTracker,
    calls: CallsUnderWay,
}

/// The use of a session that is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionUse {
    /// To read what does not end with the token.
    Read,
    /// To have something made that ends with the token.
    Lease,
}

#[derive(Default)]
struct LoginState {
    session: Option<Arc<VaultSession>>,
    /// The last login, if it failed.
    failed: Option<FailedLogin>,
    /// The last login that got an answer, if that was a denial.
    denied: Option<DeniedLogin>,
}

struct FailedLogin {
    error: SourceError,
    at: Instant,
}

struct DeniedLogin {
    error: SourceError,
    at: Instant,
    /// The SHA-256 of the credentials.
    credentials: [u8; 32],
    /// The time for which they are not tried again.
    pause: Duration,
}

impl VaultSessions {
    pub(super) fn new(
        login: Arc<VaultLogin>,
        servers: Arc<VaultServers>,
        pause: Duration,
        calls: CallsUnderWay,
    ) -> Self {
        let revocations = TaskTracker::new();
        revocations.close();
        let (state, login_failed, alive) = Default::default();
        Self { login, servers, pause, state, login_failed, alive, revocations, calls }
    }

    pub(super) fn servers(&self) -> &VaultServers {
        &self.servers
    }

    /// Makes the session of a token.
    fn of(&self, granted: GrantedToken, new_until: Duration) -> Arc<VaultSession> {
        let GrantedToken { token, since, lifetime, may_ask, is_batch } = granted;
        let lifetime = lifetime.min(CENTURY);
        let end = if lifetime.is_zero() { None } else { Some(since.plus(lifetime)) };
        let session = Arc::new(VaultSession {
            token,
            since,
            new_until,
            lifetime,
            may_ask: AtomicBool::new(may_ask),
            is_batch,
            end: std::sync::Mutex::new(end),
            servers: self.servers.clone(),
            revocations: self.revocations.clone(),
            stays: AtomicBool::new(is_batch || !self.login.owns_tokens()),
        });
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|session| session.strong_count() > 0);
        alive.push(Arc::downgrade(&session));
        session
    }

    /// Returns the session. Logs in if there is none, if it is due, or if it is `rejected`.
    ///
    /// # Errors
    /// The error of the login. Those who waited for that login get it too.
    pub(super) async fn current(
        &self,
        wanted_for: SessionUse,
        rejected: Option<&Arc<VaultSession>>,
        deadline: Instant,
    ) -> Result<Arc<VaultSession>, SourceError> {
        let last_part = match wanted_for {
            SessionUse::Read => LAST_PART,
            SessionUse::Lease => LAST_PART_FOR_LEASES,
        };
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let held = state.session.clone().filter(|held| rejected.is_none_or(|other| !Arc::ptr_eq(held, other)));
        if let Some(held) = &held
            && !held.is_due(last_part)
        {
            return Ok(held.clone());
        }
        let held = held.filter(|held| !held.has_ended());
        let deadline = match &held {
            Some(_) => deadline.min(asked + deadline.duration_since(asked) / EARLY_LOGIN),
            None => deadline,
        };
        let has_token = state.session.as_ref().is_some_and(|session| !session.has_ended());
        let granted = self.log_in(&mut state, asked, deadline).await;
        match &granted {
            Ok(_) => self.login_failed.store(false, Ordering::Relaxed),
            // The next try may get an answer, before the token ends.
            Err(error) if has_token && !error.is_denial() => (),
            Err(_) => {
                let is_needed = held.as_ref().is_none_or(|held| held.is_due(LAST_PART));
                self.login_failed.store(is_needed, Ordering::Relaxed);
            }
        }
        match granted {
            Ok(granted) => {
                // The agent renewed the token.
                if let Some(held) = held
                    && held.token == granted.token
                {
                    held.lasts_until(granted.since.plus(granted.lifetime));
                    return Ok(held);
                }
                // A path that is denied for good causes no more than one login in this time.
                let session = self.of(granted, if rejected.is_some() { self.pause.max(NEW) } else { NEW });
                state.session = Some(session.clone());
                Ok(session)
            }
            // It is due, and serves to its end.
            Err(error) => held.ok_or(error),
        }
    }

    /// Returns another session than this one, in place of which it is used from now on. Logs in if there is none. The login goes
    /// on to its end also if nobody waits for it any more.
    pub(super) fn other_than(
        self: &Arc<Self>,
        session: &Arc<VaultSession>,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Arc<VaultSession>, SourceError>> {
        let (sessions, session) = (self.clone(), session.clone());
        self.calls.to_its_end(async move { sessions.current(SessionUse::Read, Some(&session), deadline).await })
    }

    /// Makes the token of a session last longer, if its time can be extended, and learns when it ends. Returns `false` if the
    /// server denies that.
    ///
    /// # Errors
    /// A transient error if the server does not answer.
    pub(super) async fn refresh(&self, session: &VaultSession, deadline: Instant) -> Result<bool, SourceError> {
        let was_due = session.is_due(LAST_PART);
        let is_allowed = self.login.refresh(&self.servers, session, deadline).await?;
        if was_due && !session.is_due(LAST_PART) {
            self.login_failed.store(false, Ordering::Relaxed);
        }
        Ok(is_allowed)
    }

    /// Returns `true` if the token of a session is known to be lost: the server denies what the token may ask.
    ///
    /// # Errors
    /// A transient error if the server does not answer.
    pub(super) async fn is_lost(&self, session: &VaultSession, deadline: Instant) -> Result<bool, SourceError> {
        Ok(session.may_ask() && !self.refresh(session, deadline).await?)
    }

    /// Returns the time at which the newest session ends. Returns `None` if it does not end, and before the first login.
    pub(super) fn newest_end(&self) -> Option<OffsetDateTime> {
        let newest = {
            let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
            alive.iter().rev().find_map(Weak::upgrade)?
        };
        let end = newest.end.lock().unwrap_or_else(PoisonError::into_inner);
        Some(end.as_ref()?.ends_at())
    }

    /// Returns `true` if the last login failed and the next reads need it: no token is left, or the login was denied in the
    /// last part of the lifetime of the one that is held.
    pub(super) fn login_failed(&self) -> bool {
        self.login_failed.load(Ordering::Relaxed)
    }

    /// Ends all sessions. Does not wait for a login that is under way.
    pub(super) async fn end(&self) {
        let alive: Vec<_> = {
            let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
            alive.iter().filter_map(Weak::upgrade).collect()
        };
        tokio::join!(join_all(alive.iter().map(|session| session.revoke())), self.revocations.wait());
    }

    async fn log_in(
        &self,
        state: &mut LoginState,
        asked: Instant,
        deadline: Instant,
    ) -> Result<GrantedToken, SourceError> {
        if let Some(failed) = &state.failed
            && failed.at >= asked
        {
            return Err(failed.error.clone());
        }
        let granted = self.log_in_unless_denied(&mut state.denied, deadline).await;
        state.failed = granted.as_ref().err().map(|error| FailedLogin { error: error.clone(), at: Instant::now() });
        granted
    }

    /// Logs in with the credentials that are in the files now, unless they were just denied.
    async fn log_in_unless_denied(
        &self,
        denied: &mut Option<DeniedLogin>,
        deadline: Instant,
    ) -> Result<GrantedToken, SourceError> {
        let Ok(credentials) = timeout_at(deadline, self.login.credentials()).await else {
            return Err(SourceError::Unanswered("the files for a login could not be read in time".into()));
        };
        let credentials = credentials?;
        let digest = credentials.digest();
        let earlier = denied.as_ref().filter(|denied| denied.credentials == digest);
        if let Some(earlier) = earlier
            && earlier.at.elapsed() < earlier.pause
        {
            return Err(earlier.error.clone());
        }
        let granted = self.login.log_in(&self.servers, &credentials, deadline).await;
        match &granted {
            Ok(_) => *denied = None,
            Err(error) if error.is_denial() => {
                let is_counted = earlier.is_some() && self.login.is_counted(error);
                let pause = if is_counted { self.pause.max(COUNTED) } else { self.pause };
                *denied = Some(DeniedLogin { error: error.clone(), at: Instant::now(), credentials: digest, pause });
            }
            Err(_) => (),
        }
        granted
    }
}

/// Revokes a token that is not used any more.
async fn revoke(servers: &VaultServers, token: &HeaderValue) {
    let call = VaultCall::post("auth/token/revoke-self", token, &Zeroizing::default());
    match servers.ask(&call, Instant::now() + REVOKE).await {
        Ok(answer) if answer.status.is_success() => (),
        Ok(answer) => {
            let status = answer.status.as_u16();
            tracing::warn!(status, "could not revoke a token of this process; it ends by itself");
        }
        Err(error) => tracing::warn!(%error, "could not revoke a token of this process; it ends by itself"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::vault::{VaultAuth, VaultConfig};

    /// Returns the sessions of a process with the token of a file.
    fn sessions() -> VaultSessions {
        let config = VaultConfig { auth: VaultAuth::TokenFile, ..VaultConfig::default() };
        let (login, servers) = (Arc::new(VaultLogin::new(&config)), Arc::new(VaultServers::new(&config)));
        VaultSessions::new(login, servers, Duration::ZERO, CallsUnderWay::new())
    }

    fn session_of(sessions: &VaultSessions, seconds: u64) -> Arc<VaultSession> {
        let token = HeaderValue::from_static("t");
        let (since, lifetime) = (Moment::now(), Duration::from_secs(seconds));
        sessions.of(GrantedToken { token, since, lifetime, may_ask: true, is_batch: false }, NEW)
    }

    /// Reads three secrets at once while the file of a login does not answer. Returns the session that each gets, and how long
    /// that takes.
    async fn read_three(sessions: &VaultSessions) -> ([Result<Arc<VaultSession>, SourceError>; 3], Duration) {
        let asked = Instant::now();
        let read = || sessions.current(SessionUse::Read, None, asked + Duration::from_millis(4500));
        let (first, second, third) = tokio::join!(read(), read(), read());
        ([first, second, third], asked.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_that_hangs_leaves_time_for_reads_with_the_token_that_still_serves() {
        let sessions = sessions();
        let _hanging = sessions.login.files[0].reads.hang();
        let held = session_of(&sessions, 3600);
        sessions.state.lock().await.session = Some(held.clone());
        tokio::time::advance(Duration::from_secs(3100)).await;
        let (read, took) = read_three(&sessions).await;
        assert!(read.iter().all(|session| session.as_ref().is_ok_and(|session| Arc::ptr_eq(session, &held))));
        assert!(took < Duration::from_millis(1600), "the part of a login that is early: {took:?}");

        tokio::time::advance(Duration::from_secs(500)).await;
        let (read, took) = read_three(&sessions).await;
        for session in read {
            let error = session.err().expect("the token has ended").to_string();
            assert!(error.contains("it did not answer within 2 s"), "{error}");
        }
        assert!(took < Duration::from_millis(2100), "all wait for one read: {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_with_its_token_and_one_of_any_lifetime_can_be_made() {
        let sessions = sessions();
        let session = |seconds| session_of(&sessions, seconds);
        let (hour, longest, endless) = (session(3600), session(u64::MAX), session(0));
        assert!(hour.is_new() && !hour.is_due(LAST_PART));
        tokio::time::advance(Duration::from_secs(3100)).await;
        assert!(!hour.is_new() && hour.is_due(LAST_PART) && !hour.has_ended());
        tokio::time::advance(Duration::from_secs(500)).await;
        assert!(hour.has_ended());
        for lasting in [longest, endless] {
            assert!(!lasting.is_due(LAST_PART) && !lasting.has_ended());
        }
    }
}
