//! The world around the service, and what the model knows of it.

mod rules;
mod secret;

use self::secret::ModelSecret;
use super::{
    Event, Value,
    fake_database::{FakeDatabase, FakeService, FakeSettings, Health},
};
use crate::{
    application::Generation,
    config::Config,
    secrets::{id::VersionId, source::SourceError, version::Stage},
    status::reload_record::Trigger,
    testing::{Harness, MemoryManager},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout_at};

/// `secrets.probe_every`, and some time for the try itself.
const PAUSE: Duration = Duration::from_secs(16);

/// The longest load, `secrets.deadline`, and some time for one that it follows.
const LONGEST_LOAD: Duration = Duration::from_secs(35);

/// The longest load while both sides answer at once: it may read a version for the second time.
const QUICK_LOAD: Duration = Duration::from_secs(4);

/// `secrets.refresh_every`.
const REFRESH: Duration = Duration::from_secs(240);

/// The longest pause between retries while a side does not answer.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(60);

/// The time for which a request waits for a login.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The time that the manager takes if it is up. It is not zero, so that a task can see each generation.
const AT_ONCE: Duration = Duration::from_millis(1);

/// A credential of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    Login,
    Keys,
}

impl Which {
    const ALL: [Self; 2] = [Self::Login, Self::Keys];

    fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Keys => "keys",
        }
    }

    /// Returns the stages from which a version may be put in service.
    fn stages(self) -> &'static [Stage] {
        match self {
            Self::Login => &[Stage::Current, Stage::Pending],
            Self::Keys => &[Stage::Current],
        }
    }
}

/// A publication, as a task saw it.
struct Publication {
    at: Instant,
    number: u64,
    /// The time that its load took.
    duration: Duration,
    in_use: BTreeMap<Which, VersionId>,
    /// All versions that were fetched, at any stage.
    fetched: BTreeMap<Which, BTreeSet<VersionId>>,
    revoked: BTreeSet<VersionId>,
    carried_over: BTreeSet<&'static str>,
    /// `None` for the first generation.
    trigger: Option<Trigger>,
}

impl Publication {
    fn of(generation: &Generation<FakeService>) -> Self {
        let (mut in_use, mut fetched) = (BTreeMap::new(), BTreeMap::new());
        for which in Which::ALL {
            let held = generation.credentials.named(which.name()).expect("no credential is optional");
            in_use.insert(which, held.in_use().clone());
            fetched.insert(which, held.versions.values().chain(held.fetched.values()).cloned().collect());
        }
        Self {
            at: Instant::now(),
            number: generation.number,
            duration: Duration::ZERO,
            in_use,
            fetched,
            revoked: generation.config.secrets.revoked.clone(),
            carried_over: BTreeSet::new(),
            trigger: None,
        }
    }
}

/// The service, everything around it, and what the model knows of both.
pub(super) struct World {
    harness: Harness<FakeService>,
    manager: Arc<MemoryManager>,
    manager_health: Health,
    denied: BTreeSet<Which>,
    database: Arc<FakeDatabase>,
    secrets: BTreeMap<Which, ModelSecret>,
    passwords: u32,
    /// The configuration that the next signal reads.
    greeting: u8,
    revoked: BTreeSet<VersionId>,
    signals: Vec<Instant>,
    /// The last time at which a side did not answer at once.
    last_fault: Option<Instant>,
    publications: Arc<Mutex<Vec<Publication>>>,
    last: Publication,
}

impl World {
    pub(super) async fn start() -> Self {
        let (manager, database) = (MemoryManager::new(), Arc::<FakeDatabase>::default());
        let mut secrets = BTreeMap::new();
        for which in Which::ALL {
            let mut secret = ModelSecret::default();
            let version = manager.put(which.name(), text(which, Value::Good, "first"));
            secret.versions.insert(version.clone(), (Value::Good, "first".into()));
            secret.make_current(version);
            secrets.insert(which, secret);
        }
        manager.delay(AT_ONCE);
        database.state().password = "first".into();
        let config = config(0, BTreeSet::new(), database.clone());
        let harness =
            Harness::<FakeService>::start(manager.clone(), config).await.expect("everything is right at first");
        harness.start_reloading();
        let publications = Arc::<Mutex<Vec<Publication>>>::default();
        let (mut live, status, seen) = (harness.live(), harness.reloader.status.read(), publications.clone());
        let last = Publication::of(&live.generation());
        tokio::spawn(async move {
            while live.changed().await {
                let mut publication = Publication::of(&live.generation());
                if let Some(reload) = &status.borrow().last_reload {
                    publication.trigger = Some(reload.trigger);
                    publication.duration = Duration::from_millis(reload.duration_ms + 1);
                    publication.carried_over = reload.carried_over.iter().map(|stays| stays.credential).collect();
                }
                seen.lock().unwrap().push(publication);
            }
        });
        Self {
            harness,
            manager,
            manager_health: Health::Up,
            denied: BTreeSet::new(),
            database,
            secrets,
            passwords: 0,
            greeting: 0,
            revoked: BTreeSet::new(),
            signals: Vec::new(),
            last_fault: None,
            publications,
            last,
        }
    }

    /// Does what the event says, lets the service act, and checks the rules.
    pub(super) async fn step(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Rotate(which, value) => self.rotate(*which, *value),
            Event::PutPending(which, value) => {
                self.put_pending(*which, *value);
            }
            Event::Promote(which) => self.make_current(*which, Stage::Pending),
            Event::RollBack(which) => self.make_current(*which, Stage::Previous),
            Event::RemoveLabel(which, stage) => {
                self.manager.remove_label(which.name(), *stage);
                self.secret(*which).set_label(*stage, None);
            }
            Event::ChangePassword(stage) => self.change_password(*stage),
            Event::RotateBoth => {
                self.rotate(Which::Login, Value::Good);
                self.change_password(Some(Stage::Current));
            }
            Event::Database(health) => {
                self.note_faults();
                self.database.state().health = *health;
            }
            Event::Manager(health) => {
                self.note_faults();
                self.manager_health = *health;
                self.set_manager();
            }
            Event::Deny(which, true) => {
                self.denied.insert(*which);
                self.set_manager();
            }
            Event::Deny(which, false) => {
                self.denied.remove(which);
                self.set_manager();
            }
            Event::Revoke(which, stage) => {
                if let Some(version) = self.secrets[which].labels.get(stage) {
                    self.revoked.insert(version.clone());
                    self.configure();
                }
            }
            Event::Greet(greeting) => {
                self.greeting = *greeting;
                self.configure();
            }
            Event::Signal => self.signal().await?,
            Event::Request => self.request().await?,
            Event::Wait(time) => sleep(*time).await,
        }
        self.check().await
    }

    /// Mends both sides, and waits until the newest versions are in service. While requests come, no more than the pauses
    /// in ARCHITECTURE.md, *The breaker*, may pass; if nobody sent a signal, the interval of the poll too.
    pub(super) async fn mend_and_wait(&mut self, with_signal: bool) -> Result<(), String> {
        let mut bound = QUICK_LOAD + REQUEST_TIMEOUT;
        let is_away = matches!(self.manager_health, Health::Away | Health::BlackHoled) && self.denied.is_empty();
        // This signal comes too early, so that retries must bring what it asked for.
        let with_early_signal = !with_signal && is_away;
        if with_early_signal {
            self.send_signal();
            sleep(2 * LONGEST_LOAD).await;
            self.check().await?;
        }
        if !self.is_calm() {
            bound += LONGEST_LOAD;
        }
        (self.manager_health, self.denied) = (Health::Up, BTreeSet::new());
        self.set_manager();
        self.database.state().health = Health::Up;
        let revoked = &self.revoked | &self.last.revoked;
        for which in Which::ALL {
            if self.secrets[&which].usable(Stage::Current, &revoked).is_none() {
                self.rotate(which, Value::Good);
            }
        }
        self.change_password(Some(Stage::Current));
        let login = self.secrets[&Which::Login].labels[&Stage::Current].clone();
        if self.was_rejected_lately(&login) {
            bound += 2 * PAUSE;
        }
        if with_signal {
            self.send_signal();
        } else if with_early_signal {
            bound += LONGEST_RETRY_PAUSE;
        } else {
            bound += REFRESH.mul_f64(1.1);
        }
        let end = Instant::now() + bound;
        loop {
            self.check().await?;
            let Some(missing) = self.missing(with_signal) else { return Ok(()) };
            if Instant::now() >= end {
                return Err(format!("{bound:?} after both sides were mended: {missing}"));
            }
            let _ = self.harness.live().service().client.request().await;
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Requests a reload for a due lease each second, for a minute. Returns the number of times at which the status has
    /// shown a retry as the last reload.
    pub(super) async fn retries_beside_due_leases(&self) -> usize {
        let mut status = self.harness.reloader.status.read();
        let mut retries = 0;
        for _ in 0..60 {
            self.harness.reloader.loader.reload_requests.request_for_due_lease();
            let end = Instant::now() + Duration::from_secs(1);
            while timeout_at(end, status.changed()).await.is_ok() {
                let last = status.borrow_and_update().last_reload.as_ref().map(|reload| reload.trigger);
                retries += usize::from(last == Some(Trigger::Retry));
            }
        }
        retries
    }

    pub(super) async fn stop(self) {
        self.harness.stop().await;
    }

    fn secret(&mut self, which: Which) -> &mut ModelSecret {
        self.secrets.get_mut(&which).expect("the world has all secrets")
    }

    fn put_pending(&mut self, which: Which, value: Value) -> VersionId {
        self.passwords += 1;
        let password = format!("password {}", self.passwords);
        let version = self.manager.put_at(which.name(), Stage::Pending, text(which, value, &password));
        self.secret(which).versions.insert(version.clone(), (value, password));
        self.secret(which).set_label(Stage::Pending, Some(version.clone()));
        version
    }

    fn rotate(&mut self, which: Which, value: Value) {
        self.put_pending(which, value);
        self.make_current(which, Stage::Pending);
        self.manager.remove_label(which.name(), Stage::Pending);
        self.secret(which).set_label(Stage::Pending, None);
    }

    /// Makes the version at this stage current, if there is one.
    fn make_current(&mut self, which: Which, stage: Stage) {
        if let Some(version) = self.secrets[&which].labels.get(&stage).cloned() {
            self.manager.move_label(which.name(), Stage::Current, &version);
            self.secret(which).make_current(version);
        }
    }

    fn change_password(&self, stage: Option<Stage>) {
        let login = &self.secrets[&Which::Login];
        let version = stage.and_then(|stage| login.labels.get(&stage));
        self.database.state().password = match version {
            Some(version) => login.versions[version].1.clone(),
            None => "known to nobody".into(),
        };
    }

    fn set_manager(&self) {
        let delay = match self.manager_health {
            Health::Up | Health::Away => AT_ONCE,
            Health::BlackHoled => Duration::MAX,
            Health::Slow(delay) => delay,
        };
        self.manager.delay(delay);
        for which in Which::ALL {
            let (answers, error) = if self.denied.contains(&which) {
                (usize::MAX, SourceError::Denied("as the model says".into()))
            } else if self.manager_health == Health::Away {
                (usize::MAX, SourceError::Unavailable("as the model says".into()))
            } else {
                (0, SourceError::Unavailable(String::new()))
            };
            self.manager.fail_next(which.name(), answers, error);
        }
    }

    fn configure(&self) {
        self.harness.configure(config(self.greeting, self.revoked.clone(), self.database.clone()));
    }

    fn send_signal(&mut self) {
        self.signals.push(Instant::now());
        self.harness.signal();
    }

    /// Sends a signal. If everything is right, everything new must be in service a moment later.
    async fn signal(&mut self) -> Result<(), String> {
        let is_all_right = self.is_calm() && self.denied.is_empty() && self.is_newest_right();
        self.send_signal();
        if !is_all_right {
            return Ok(());
        }
        sleep(QUICK_LOAD).await;
        match self.missing(true) {
            None => Ok(()),
            Some(missing) => Err(format!("after a signal while everything was right: {missing}")),
        }
    }

    /// Returns true if the service can take up every current version at once.
    fn is_newest_right(&self) -> bool {
        let current = |which: Which| self.secrets[&which].usable(Stage::Current, &self.revoked);
        match (current(Which::Login), current(Which::Keys)) {
            (Some(login), Some(_)) => self.is_accepted_now(login),
            _ => false,
        }
    }

    /// Returns true if the database has this version's password, and nothing keeps the service from trying it.
    fn is_accepted_now(&self, login: &VersionId) -> bool {
        let password = &self.secrets[&Which::Login].versions[login].1;
        let has_password = self.database.state().password == *password;
        has_password && !self.was_rejected_lately(login)
    }

    /// Returns true if the last log-in with this version was rejected, and the pause after that may last.
    fn was_rejected_lately(&self, login: &VersionId) -> bool {
        let state = self.database.state();
        let last = state.log_ins.iter().rfind(|log_in| log_in.version == *login);
        last.is_some_and(|last| !last.accepted && last.at.elapsed() < PAUSE)
    }

    /// Sends a request, which waits for a login. It must get one, unless a fault explains that there is none.
    async fn request(&mut self) -> Result<(), String> {
        let must_succeed = self.request_must_succeed();
        let end = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let service = self.harness.live().service();
            if service.client.request().await.is_ok() {
                return Ok(());
            }
            if Instant::now() >= end {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        match must_succeed {
            None => Ok(()),
            Some(reason) => Err(format!("a request failed, although {reason}")),
        }
    }

    /// Returns the reason for which a request must succeed, if there is one.
    fn request_must_succeed(&self) -> Option<&'static str> {
        if !self.is_calm() {
            return None;
        }
        let (login, revoked) = (&self.secrets[&Which::Login], &self.last.revoked);
        let in_service = &self.last.in_use[&Which::Login];
        if self.is_accepted_now(in_service) {
            return Some("the database accepts the version in service");
        }
        // Without a log-in that is rejected now, the service only hears of the change from a poll or a retry.
        if self.was_rejected_lately(in_service) || self.denied.contains(&Which::Login) {
            return None;
        }
        let current = login.usable(Stage::Current, revoked)?;
        if self.is_accepted_now(current) {
            return Some("the database accepts the current version");
        }
        let pending = login.usable(Stage::Pending, revoked)?;
        let is_same_user = login.versions[current].0 == login.versions[pending].0;
        if is_same_user && self.is_accepted_now(pending) {
            return Some("the database accepts the pending version");
        }
        None
    }

    /// Returns true if both sides answer at once, and have done so for longer than any load takes.
    fn is_calm(&self) -> bool {
        let is_up = self.manager_health == Health::Up && self.database.state().health == Health::Up;
        is_up && self.last_fault.is_none_or(|last| last.elapsed() > LONGEST_LOAD)
    }

    fn note_faults(&mut self) {
        if self.manager_health != Health::Up || self.database.state().health != Health::Up {
            self.last_fault = Some(Instant::now());
        }
    }

    /// Returns what the manager has as current, or the configuration says, and is not in service.
    fn missing(&self, with_settings: bool) -> Option<String> {
        let generation = self.harness.live().generation();
        for which in Which::ALL {
            let held = generation.credentials.named(which.name()).expect("no credential is optional").in_use();
            let current = &self.secrets[&which].labels[&Stage::Current];
            if held != current && !self.stands_in(which, held) {
                return Some(format!("{which:?} is {held}, and not {current}"));
            }
        }
        let greeting = generation.config.service.greeting;
        if with_settings && greeting != self.greeting {
            return Some(format!("the greeting is {greeting}, and not {}", self.greeting));
        }
        None
    }

    /// Returns true if this is the pending login, and the service has not heard that the database rejects it: it stays
    /// until a log-in is rejected.
    fn stands_in(&self, which: Which, held: &VersionId) -> bool {
        which == Which::Login
            && self.secrets[&which].labels.get(&Stage::Pending) == Some(held)
            && !self.was_rejected_at(held, Instant::now())
    }
}

fn config(greeting: u8, revoked: BTreeSet<VersionId>, database: Arc<FakeDatabase>) -> Config<FakeSettings> {
    let mut config = Config { service: FakeSettings { greeting, database }, ..Config::default() };
    config.secrets.refresh_every = REFRESH;
    config.secrets.revoked = revoked;
    config
}

/// Returns a value for the manager.
fn text(which: Which, value: Value, password: &str) -> String {
    match (which, value) {
        (_, Value::Empty) => "  ".into(),
        (Which::Login, Value::Malformed) => "{\"username\": 1}".into(),
        (Which::Login, Value::Good) => format!("{{\"username\": \"app\", \"password\": \"{password}\"}}"),
        (Which::Login, Value::OfAnotherUser) => format!("{{\"username\": \"other\", \"password\": \"{password}\"}}"),
        (Which::Keys, Value::Malformed) => "too short".into(),
        (Which::Keys, Value::Good | Value::OfAnotherUser) => STANDARD.encode(format!("{password:.>32}")),
    }
}
