//! The pool of one place: a host, a port and a database. It lives as long as the process uses that place.
//!
//! ```text
//!           ┌── idle for half a second: does it answer? ──┐
//! acquire ──┴─ an idle connection ────────────────────────┴─► lease ──► dropped
//!     │                                                         ▲          ├── clean: idle, or to the first who waits
//!     └─ none: wait ◄── the tender, who logs in ────────────────┘          ├── not clean: roll back, or close
//!                       (two at a time, the breaker asked)                 └── replaced, old or damaged: close
//! ```
//!
//! The pool logs in with the newest login that was proven and published. Each connection knows the login that it was made
//! with. After a publication, idle connections of the old login serve until the new ones are open, for a second at most. If
//! only the limits are new, that second begins when a log-in succeeds.
//! A login that waits for its publication has connections of its own: the load that has proven it opens them itself.

mod tender;

pub(super) use self::tender::LOGIN_TIMEOUT;

use self::tender::Trouble;
use super::{
    error::{is_rejected, reason},
    lease::{Lease, PooledConnection},
    login::{DatabaseUnavailable, PoolLogin},
    traced,
};
use crate::{resources::breaker::ProbeReason, traces::ChildKind};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

/// The longest idle time after which a connection is handed out unchecked. A check of each connection costs a quarter of
/// a database route. HikariCP's `aliveBypassWindow` is as long.
const MAX_UNCHECKED_IDLE: Duration = Duration::from_millis(500);

/// The number of log-ins that run at a time. No more than this many are rejected before the breaker opens.
const CONCURRENT_LOGINS: usize = 2;

/// The time for which idle connections of a replaced login serve until new ones are open. Without it, all requests would
/// wait for the first log-ins.
const HANDOVER: Duration = Duration::from_secs(1);

/// The shortest time between two renewals of all connections.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(15);

/// The longest wait for connections in use when the pool is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pool of one place.
pub(crate) struct Pool {
    state: Mutex<State>,
    /// Wakes the tender: somebody waits, or a place is free.
    work: Arc<Notify>,
    /// Wakes a stop that waits for the last connection.
    place_is_free: Notify,
    /// The permits for log-ins at a time, those of proofs included.
    logins: Arc<Semaphore>,
    tender: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct State {
    login: Arc<PoolLogin>,
    /// The connections of a login that was proven and is not published yet.
    unpublished: Vec<PooledConnection>,
    /// The idle connections of the login in service. The last one was used last.
    idle: Vec<PooledConnection>,
    /// The idle connections of logins that were replaced, while they [serve](State::serves).
    replaced: Vec<PooledConnection>,
    /// Until then, idle connections of a replaced version, or with replaced settings, serve.
    replaced_until: Instant,
    /// Until then, idle connections serve of which only limits were replaced.
    limits_replaced_until: Instant,
    waiting: VecDeque<oneshot::Sender<Lease>>,
    /// The places that are taken: connections that are open, being opened, or being closed.
    places: usize,
    /// The log-ins of the tender that are under way.
    logins: usize,
    /// The log-ins that are wanted although nobody waits, [`CONCURRENT_LOGINS`] at most.
    wanted: usize,
    /// `true` if a log-in shall tell whether the login is still accepted.
    is_suspect: bool,
    /// `None` while the last log-in succeeded.
    trouble: Option<Trouble>,
    /// Connections that were opened before are not used again: a schema changed, or the server is another one.
    renewed_at: Option<Instant>,
    stage: PoolStage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PoolStage {
    Open,
    /// No generation in service uses the pool. It serves those that still hold it.
    Retired,
    Closed,
}

/// The answer of the pool to somebody who wants a connection.
enum Taken {
    Ready(Lease),
    /// A connection that was idle for long. It may be dead.
    Unchecked(Lease),
    Wait(oneshot::Receiver<Lease>),
    Unavailable(DatabaseUnavailable),
}

impl Pool {
    pub(super) fn new(login: Arc<PoolLogin>) -> Arc<Self> {
        let now = Instant::now();
        let pool = Arc::new(Self {
            state: Mutex::new(State {
                login,
                unpublished: Vec::new(),
                idle: Vec::new(),
                replaced: Vec::new(),
                replaced_until: now,
                limits_replaced_until: now,
                waiting: VecDeque::new(),
                places: 0,
                logins: 0,
                wanted: 0,
                is_suspect: false,
                trouble: None,
                renewed_at: None,
                stage: PoolStage::Open,
            }),
            work: Arc::default(),
            place_is_free: Notify::new(),
            logins: Arc::new(Semaphore::new(CONCURRENT_LOGINS)),
            tender: Mutex::default(),
        });
        let tender = tokio::spawn(tender::tend(Arc::downgrade(&pool), pool.work.clone()));
        *pool.tender.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(tender));
        pool
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a connection within `database.acquire_timeout`. `login` is that of the caller's generation.
    pub(super) async fn acquire(self: &Arc<Self>, login: &Arc<PoolLogin>) -> Result<Lease, sqlx::Error> {
        if self.state().is_unpublished(login) {
            let acquired = timeout(login.limits.acquire_timeout, self.acquire_unpublished(login)).await;
            return acquired.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        }
        let taken = match self.take(login) {
            Taken::Ready(lease) => {
                tracing::debug!("an idle connection of the database is used");
                return Ok(lease);
            }
            taken => taken,
        };
        tracing::debug!("waiting for a connection of the database");
        let mut span = traced::begin(login, ChildKind::Wait);
        if let Some(span) = &mut span {
            span.set_name("wait for a connection");
        }
        let acquired = match timeout(login.limits.acquire_timeout, self.wait(login, taken)).await {
            Ok(acquired) => acquired,
            Err(_) => Err(match self.unavailable(&self.state()) {
                Some(unavailable) => unavailable.into(),
                None => sqlx::Error::PoolTimedOut,
            }),
        };
        traced::end(span, &acquired);
        acquired
    }

    /// Returns a connection of a login that waits for its publication: an idle one, or a new one. The tender logs in
    /// with the login in service alone, and that may be rejected.
    async fn acquire_unpublished(self: &Arc<Self>, login: &Arc<PoolLogin>) -> Result<Lease, sqlx::Error> {
        let permit = login.permit_before_publication().await;
        while let Some(idle) = self.pop_unpublished(login) {
            let mut lease = Lease::new(self.clone(), idle);
            if lease.answers().await {
                lease.permit = permit;
                return Ok(lease);
            }
        }
        let deadline = Instant::now() + login.limits.acquire_timeout;
        let place = match self.place_beside_proof(login) {
            Some(place) => Some(place),
            None => self.give_up_one(deadline).await,
        };
        let mut lease = place.ok_or(sqlx::Error::PoolTimedOut)?;
        let attempt = login.breaker.allow(ProbeReason::Scheduled).map_err(|rejection| login.unavailable(&rejection))?;
        let _permit = self.login_permit().await;
        let connection = match login.options.log_in().await {
            Ok(connection) => connection,
            Err(error) if is_rejected(&error) => {
                return Err(login.unavailable(&attempt.rejected(reason(&error))));
            }
            Err(error) => return Err(error),
        };
        attempt.accepted();
        lease.connect(connection, login.clone());
        lease.permit = permit;
        Ok(lease)
    }

    async fn wait(self: &Arc<Self>, login: &Arc<PoolLogin>, mut taken: Taken) -> Result<Lease, sqlx::Error> {
        loop {
            match taken {
                Taken::Ready(lease) => return Ok(lease),
                Taken::Unchecked(mut lease) => {
                    if lease.answers().await {
                        return Ok(lease);
                    }
                    // Others may be dead too, so a new one is opened while they are checked.
                    self.state().want_login();
                    self.work.notify_one();
                }
                Taken::Wait(receiver) => return receiver.await.map_err(|_| sqlx::Error::PoolClosed),
                Taken::Unavailable(unavailable) => return Err(unavailable.into()),
            }
            taken = self.take(login);
        }
    }

    /// Takes a connection. If there is none, the caller joins those who wait.
    fn take(self: &Arc<Self>, login: &Arc<PoolLogin>) -> Taken {
        let mut ended = Vec::new();
        let taken = self.take_usable(login, &mut ended);
        for connection in ended {
            self.close_later(connection);
        }
        taken
    }

    /// Takes a connection, and the ones on the way whose lease has ended.
    fn take_usable(self: &Arc<Self>, login: &Arc<PoolLogin>, ended: &mut Vec<PooledConnection>) -> Taken {
        let now = Instant::now();
        let mut state = self.state();
        let mut connection = pop_usable(&mut state.idle, ended);
        if connection.is_none() {
            ended.extend(state.extract_ended(now));
            connection = pop_usable(&mut state.replaced, ended);
            if connection.is_some() {
                state.want_login();
                self.work.notify_one();
            }
        }
        if let Some(connection) = connection {
            let is_fresh = now - connection.idle_since < MAX_UNCHECKED_IDLE;
            let lease = Lease::new(self.clone(), connection);
            return if is_fresh { Taken::Ready(lease) } else { Taken::Unchecked(lease) };
        }
        let is_old = state.trouble.as_ref().is_some_and(|trouble| now - trouble.since >= login.limits.acquire_timeout);
        if is_old
            && state.places == state.logins
            && let Some(unavailable) = self.unavailable(&state)
        {
            return Taken::Unavailable(unavailable);
        }
        let (sender, receiver) = oneshot::channel();
        if state.stage != PoolStage::Closed {
            state.join_waiting(sender);
            if state.has_place() {
                self.work.notify_one();
            }
        }
        Taken::Wait(receiver)
    }

    /// Returns the reason why there is no connection, and the time until the next try.
    fn unavailable(&self, state: &State) -> Option<DatabaseUnavailable> {
        let trouble = state.trouble.as_ref()?;
        Some(DatabaseUnavailable {
            reason: trouble.reason.clone(),
            retry_after: trouble.next_try.saturating_duration_since(Instant::now()),
        })
    }

    /// Takes a connection back that is clean.
    pub(super) fn put_back(self: &Arc<Self>, connection: PooledConnection, now: Instant) {
        self.put_back_in_place(connection, now, false);
    }

    /// Takes a connection back that is clean. `has_place` if another one is being closed for it.
    fn put_back_in_place(self: &Arc<Self>, mut connection: PooledConnection, now: Instant, has_place: bool) {
        loop {
            let mut state = self.state();
            if state.is_unpublished(&connection.login) && !connection.login.was_discarded() {
                connection.set_idle(true);
                state.unpublished.push(connection);
                return;
            }
            let is_old = now >= connection.expires_at || Some(connection.opened_at) < state.renewed_at;
            let is_worn = is_old || connection.login.is_over();
            // The connection that proved a login may be one too many.
            let is_surplus = !has_place && state.places > state.login.limits.max_connections;
            if state.stage == PoolStage::Closed || is_worn || is_surplus || connection.login.was_discarded() {
                break;
            }
            if !state.serves(&connection, now) {
                break;
            }
            match state.waiting.pop_front() {
                Some(waiting) => {
                    drop(state);
                    let Err(unwanted) = waiting.send(Lease::new(self.clone(), connection)) else { return };
                    connection = unwanted.into_connection();
                }
                None if state.stage == PoolStage::Retired => break,
                None => {
                    connection.set_idle(true);
                    let is_current = Arc::ptr_eq(&connection.login, &state.login);
                    let list = if is_current { &mut state.idle } else { &mut state.replaced };
                    list.push(connection);
                    return;
                }
            }
        }
        self.close_later(connection);
    }

    /// Closes a connection, and frees its place afterwards.
    pub(super) fn close_later(self: &Arc<Self>, connection: PooledConnection) {
        let lease = Lease::to_close(self.clone(), connection);
        // Without a runtime nothing can be sent, and only the socket closes.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(lease.close());
        }
    }

    pub(super) fn free_place(&self) {
        self.state().places -= 1;
        self.work.notify_one();
        self.place_is_free.notify_waiters();
    }

    /// Takes a place for a connection that proves a login. It may be one more than `database.max_connections`.
    pub(super) fn place(self: &Arc<Self>) -> Lease {
        self.state().places += 1;
        Lease::empty(self.clone())
    }

    fn pop_unpublished(&self, login: &Arc<PoolLogin>) -> Option<PooledConnection> {
        let unpublished = &mut self.state().unpublished;
        let last = unpublished.iter().rposition(|connection| Arc::ptr_eq(&connection.login, login))?;
        Some(unpublished.remove(last))
    }

    /// Takes a place for a further connection of a login that waits for its publication, if one is left. With the one
    /// of the proof, there may be one more than `database.max_connections`.
    fn place_beside_proof(self: &Arc<Self>, login: &PoolLogin) -> Option<Lease> {
        let mut state = self.state();
        if state.places > login.limits.max_connections {
            return None;
        }
        state.places += 1;
        drop(state);
        Some(Lease::empty(self.clone()))
    }

    /// Waits for a permit to log in.
    pub(super) async fn login_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.logins.clone().acquire_owned().await.ok()
    }

    /// Returns `true` if this is the login that the pool logs in with.
    pub(super) fn logs_in_with(&self, login: &Arc<PoolLogin>) -> bool {
        Arc::ptr_eq(&self.state().login, login)
    }

    /// Closes one connection as soon as one is idle, because the server has no other left. Returns its place.
    pub(super) async fn give_up_one(self: &Arc<Self>, deadline: Instant) -> Option<Lease> {
        let login = self.state().login.clone();
        let mut lease = timeout_at(deadline, self.wait(&login, self.take(&login))).await.ok()?.ok()?;
        lease.disconnect().await;
        Some(lease)
    }

    /// Puts a login in service. Idle connections of the one before serve on for a moment.
    pub(super) fn publish(self: &Arc<Self>, login: &Arc<PoolLogin>) {
        let (proven, given_up, surplus) = {
            let mut state = self.state();
            if !Arc::ptr_eq(&state.login, login) {
                let now = Instant::now();
                if login.is_proven_by(&state.login) {
                    // The first log-in with the new limits shows whether there can be more. Until then, nothing is as
                    // good as the connections that are open.
                    state.limits_replaced_until = now + login.limits.max_lifetime;
                    state.is_suspect = true;
                } else {
                    state.replaced_until = now + HANDOVER;
                    state.limits_replaced_until = state.replaced_until;
                    (state.trouble, state.is_suspect) = (None, false);
                }
                state.login = login.clone();
                let idle = std::mem::take(&mut state.idle);
                state.replaced.extend(idle);
                state.wanted = 0;
                state.stage = PoolStage::Open;
            }
            // The connections of the login before give their places up first.
            let surplus = state.places.saturating_sub(state.login.limits.max_connections);
            let kept = state.replaced.len().saturating_sub(surplus);
            let given_up = state.replaced.split_off(kept);
            (std::mem::take(&mut state.unpublished), given_up, surplus)
        };
        for (number, connection) in proven.into_iter().enumerate() {
            let has_place = number + given_up.len() >= surplus;
            self.put_back_in_place(connection, Instant::now(), has_place);
        }
        for connection in given_up {
            self.close_later(connection);
        }
        self.work.notify_one();
    }

    /// Closes the connections of a login that will not be published. All others stay.
    pub(super) fn discard(self: &Arc<Self>, login: &Arc<PoolLogin>) {
        login.set_discarded();
        while let Some(connection) = self.pop_unpublished(login) {
            self.close_later(connection);
        }
    }

    /// Closes idle connections now, and others when they come back: the generation in service does not use the pool.
    pub(super) fn retire(self: &Arc<Self>) {
        let mut state = self.state();
        if state.stage == PoolStage::Open {
            state.stage = PoolStage::Retired;
        }
        let idle: Vec<_> = state.take_idle();
        drop(state);
        for connection in idle {
            self.close_later(connection);
        }
    }

    /// Closes all connections, and waits until they are closed.
    pub(super) async fn close(self: &Arc<Self>) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        let idle = {
            let mut state = self.state();
            state.stage = PoolStage::Closed;
            state.waiting.clear();
            state.take_idle()
        };
        // Its log-ins hold places. Nobody waits for them any more.
        drop(self.tender.lock().unwrap_or_else(PoisonError::into_inner).take());
        for connection in idle {
            self.close_later(connection);
        }
        loop {
            let freed = self.place_is_free.notified();
            let is_empty = self.state().places == 0;
            if is_empty || timeout_at(deadline, freed).await.is_err() {
                return;
            }
        }
    }

    /// Uses no connection again that is open now. Each is closed when it comes back. Does nothing if the connection
    /// that failed was opened before the last renewal, or if that was less than 15 s ago: a new connection may fail in
    /// the same way, because the database is read-only for long, or a proxy loses each prepared statement.
    pub(super) fn renew(self: &Arc<Self>, failed_opened_at: Instant) {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(last) = state.renewed_at
            && (failed_opened_at < last || now < last + RENEWAL_INTERVAL)
        {
            return;
        }
        state.renewed_at = Some(now);
        let idle = state.take_idle();
        drop(state);
        for connection in idle {
            self.close_later(connection);
        }
    }

    /// Has the login tried once. The outcome tells whether it is still accepted.
    pub(super) fn check_login(&self) {
        self.state().is_suspect = true;
        self.work.notify_one();
    }
}

/// Pops the last connection whose lease has not ended. Moves those behind it to `ended`.
fn pop_usable(idle: &mut Vec<PooledConnection>, ended: &mut Vec<PooledConnection>) -> Option<PooledConnection> {
    let number = idle.iter().rposition(|connection| !connection.login.is_over()).map_or(0, |last| last + 1);
    ended.extend(idle.drain(number..));
    idle.pop()
}

impl State {
    /// Returns `true` if the login waits for its publication beside the one in service. It has connections of its own,
    /// unless it differs from that in its limits only.
    fn is_unpublished(&self, login: &PoolLogin) -> bool {
        !login.was_published() && !login.is_proven_by(&self.login)
    }

    /// Returns `true` if the connection may be handed out: its login is in service, or was replaced a moment ago. If only limits
    /// were replaced, the moment is longer.
    fn serves(&self, connection: &PooledConnection, now: Instant) -> bool {
        let login = &connection.login;
        let is_proven = login.is_proven_by(&self.login);
        let until = if is_proven { self.limits_replaced_until } else { self.replaced_until };
        Arc::ptr_eq(login, &self.login) || now < until
    }

    /// Takes the idle connections that no longer serve.
    fn extract_ended(&mut self, now: Instant) -> Vec<PooledConnection> {
        let replaced = std::mem::take(&mut self.replaced);
        let ended;
        (self.replaced, ended) = replaced.into_iter().partition(|connection| self.serves(connection, now));
        ended
    }

    /// Returns `true` if a connection can be opened in a free place, or in that of a replaced one.
    fn has_place(&self) -> bool {
        self.places < self.login.limits.max_connections || !self.replaced.is_empty()
    }

    /// Adds somebody who waits, in place of those who have given up. The first who waits gives up first, so they are at the
    /// front: while all connections are in use, nobody else removes them.
    fn join_waiting(&mut self, waiting: oneshot::Sender<Lease>) {
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
        self.waiting.push_back(waiting);
    }

    fn want_login(&mut self) {
        self.wanted = CONCURRENT_LOGINS.min(self.wanted + 1);
    }

    fn take_idle(&mut self) -> Vec<PooledConnection> {
        let mut idle = std::mem::take(&mut self.idle);
        idle.append(&mut self.replaced);
        idle.append(&mut self.unpublished);
        idle
    }
}

#[cfg(test)]
impl Pool {
    /// Returns the number of places that are taken, and of those who wait.
    pub(super) fn taken_and_waiting(&self) -> (usize, usize) {
        let state = self.state();
        (state.places, state.waiting.len())
    }
}
