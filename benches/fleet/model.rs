//! A model of a fleet: as many services as there are replicas, in one process, in the virtual time of tokio.
//!
//! Each replica is the framework itself: its loader, its reload actor, its circuit breakers, and all of its pauses with their
//! jitter. So the model decides as the service does, and cannot drift away from it. It has the credentials of the example.
//! Only the other sides are made up: the manager has a quota and answers after a fixed time, and so does the database, where a
//! replica has one connection.

// The path holds for the test that includes this file too.
#[path = "world.rs"]
mod world;

use self::world::World;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use vestibule::{
    Application, Build, BuildError, OpenApiRouter, Package,
    config::{Config, ConfigSection, Setting},
    resources::{CircuitBreaker, ProbeReason, Rejection, Resource},
    secrets::VersionId,
    testing::Harness,
};

/// The time that the database takes for a log-in.
const LOG_IN: Duration = Duration::from_millis(10);

/// The time from one request of a client to the next.
pub(crate) const BETWEEN_REQUESTS: Duration = Duration::from_millis(200);

/// The time for which the database has another password than the manager, in the scenarios with a window.
pub(crate) const WINDOW: Duration = Duration::from_secs(3);

/// The time for which idle connections of a replaced login stay open: the pool of the framework has it as `HANDOVER`.
const HANDOVER: Duration = Duration::from_secs(1);

/// The time in which nothing happens before a rotation.
const CALM: Duration = Duration::from_secs(5);

/// The longest rotation. A replica that does not hold the new version then never will.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// An event that all replicas see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// All replicas start.
    Start,
    /// The password is rotated, first in the database. Each replica gets a SIGHUP.
    Signal,
    /// The password is rotated in the same way, and nobody tells the replicas: each one polls.
    Poll,
    /// The role gets a new password, and all its connections end. The manager has it [`WINDOW`] later, and nobody tells the
    /// replicas, which do not poll: each one sees that its login is rejected.
    Rejected,
    /// The role gets a new password. Half of the replicas are killed, and start again at once. The manager has the password
    /// [`WINDOW`] later, and the other half gets a SIGHUP.
    Crash,
}

impl Scenario {
    pub(crate) const ALL: [Self; 5] = [Self::Start, Self::Signal, Self::Poll, Self::Rejected, Self::Crash];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "all start",
            Self::Signal => "rotated, all signalled",
            Self::Poll => "rotated, by the poll alone",
            Self::Rejected => "connections killed 3 s before the manager knows",
            Self::Crash => "half killed 3 s before the manager knows",
        }
    }

    pub(crate) fn has_window(self) -> bool {
        matches!(self, Self::Rejected | Self::Crash)
    }
}

/// A fleet and its surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    pub(crate) replicas: usize,
    /// The calls per second that the manager answers. `None`: all.
    pub(crate) quota: Option<u32>,
    /// The time in which the replicas begin to start, or get their signals, one after the other.
    pub(crate) spread: Duration,
    /// `secrets.refresh_every`; with zero, there are no polls.
    pub(crate) refresh_every: Duration,
    /// The seed of all that is random.
    pub(crate) seed: u64,
}

/// The result of a scenario, of processes or of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// The replicas that ended in place of serving, or that did not take the new version up.
    pub(crate) failed: usize,
    /// The times from the event until the first and the last replica is ready, or holds the new version. With a window, from
    /// the moment at which the manager knows.
    pub(crate) first: Duration,
    pub(crate) last: Duration,
    /// The calls of the manager, throttled or not.
    pub(crate) calls: usize,
    pub(crate) throttled: usize,
    /// The most calls within a second.
    pub(crate) busiest_second: usize,
    /// The log-ins that the database accepted.
    pub(crate) log_ins: usize,
    /// The log-ins that it rejected.
    pub(crate) rejected: usize,
    /// The most connections at a time.
    pub(crate) connections: usize,
}

/// Runs a scenario with the model. Blocks this thread, which must not be one of a runtime. The same parameters have the same
/// outcome.
pub(crate) fn run(scenario: Scenario, parameters: Parameters) -> Outcome {
    let thread = std::thread::spawn(move || {
        fastrand::seed(parameters.seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(Fleet::run(scenario, parameters))
    });
    thread.join().expect("the model does not panic")
}

/// The settings of a replica: its number, and the way to the database.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Settings {
    #[serde(skip)]
    replica: usize,
    #[serde(skip)]
    world: Arc<World>,
}

impl ConfigSection for Settings {
    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }
}

/// The service of each replica.
struct Replica {
    database: Client,
}

impl Application for Replica {
    const PACKAGE: Package = Package::new("replica", "0");
    type Settings = Settings;
    type Secrets = service::Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let login = &cx.secrets.database;
        let database = cx.resource(login, &(), async |_| {
            let client = Client(Arc::new(ClientOfVersion {
                world: cx.settings.world.clone(),
                replica: cx.settings.replica,
                version: login.version().clone(),
                breaker: cx.circuit_breaker(login, "the database"),
                connected: Mutex::default(),
            }));
            client.log_in(cx.probe_reason()).await?;
            Ok(client)
        });
        Ok(Self { database: database.await? })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// A client of the database, with one version of the login and one connection.
#[derive(Clone)]
struct Client(Arc<ClientOfVersion>);

struct ClientOfVersion {
    world: Arc<World>,
    replica: usize,
    version: VersionId,
    breaker: CircuitBreaker,
    /// The number of kills before the connection was opened. `None` if it is closed.
    connected: Mutex<Option<u32>>,
}

impl Client {
    /// Logs in, if the breaker allows it.
    async fn log_in(&self, reason: ProbeReason) -> Result<(), Rejection> {
        let attempt = self.0.breaker.allow(reason)?;
        sleep(LOG_IN).await;
        let is_rejected = self.0.world.state().rejected_versions.contains(&self.0.version);
        if is_rejected {
            self.0.world.state().rejected += 1;
            return Err(attempt.rejected("password authentication failed"));
        }
        attempt.accepted();
        self.0.connect();
        Ok(())
    }

    /// Reads a row, as a request does. Logs in first if there is no connection. A client that cannot log in waits, and the
    /// breaker has the pool try once per pause.
    async fn request(&self) {
        if !self.0.is_connected() {
            let _ = self.log_in(ProbeReason::Scheduled).await;
        }
    }
}

impl ClientOfVersion {
    fn connected(&self) -> MutexGuard<'_, Option<u32>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_connected(&self) -> bool {
        *self.connected() == Some(self.world.state().kills)
    }

    fn connect(&self) {
        self.disconnect();
        let mut state = self.world.state();
        *self.connected() = Some(state.kills);
        state.log_ins += 1;
        state.connections += 1;
        state.most_connections = state.most_connections.max(state.connections);
    }

    fn disconnect(&self) {
        let was = self.connected().take();
        let mut state = self.world.state();
        // Those that were killed are not counted any more.
        if was == Some(state.kills) {
            state.connections -= 1;
        }
    }
}

impl Resource for Client {
    fn publish(&self) {
        let (replica, version) = (self.0.replica, &self.0.version);
        let mut state = self.0.world.state();
        if state.held.get(&replica).is_none_or(|(held, _)| held != version) {
            state.held.insert(replica, (version.clone(), Instant::now()));
        }
    }

    fn circuit_breaker(&self) -> Option<&CircuitBreaker> {
        Some(&self.0.breaker)
    }

    async fn probe(&self, reason: ProbeReason, _deadline: Instant) {
        if self.0.breaker.rejection().is_some() {
            let _ = self.log_in(reason).await;
        }
    }

    fn retire(&self, _successor: Option<&Self>) {
        let replaced = self.clone();
        tokio::spawn(async move {
            sleep(HANDOVER).await;
            replaced.0.disconnect();
        });
    }

    async fn close(&self) {
        self.0.disconnect();
    }
}

impl Drop for ClientOfVersion {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// The replicas.
struct Fleet {
    parameters: Parameters,
    world: Arc<World>,
    running: Mutex<BTreeMap<usize, Harness<Replica>>>,
}

impl Fleet {
    async fn run(scenario: Scenario, parameters: Parameters) -> Outcome {
        let world = Arc::new(World::default());
        let fleet = Arc::new(Self { parameters, world, running: Mutex::default() });
        let first_version = fleet.world.put_login();
        if scenario == Scenario::Start {
            fleet.world.begin(parameters.quota);
            let begun = Instant::now();
            fleet.start(0..parameters.replicas, parameters.spread).await;
            return fleet.outcome(begun, &first_version);
        }
        fleet.start(0..parameters.replicas, Duration::ZERO).await;
        sleep(CALM).await;

        let killed = if scenario == Scenario::Crash { 0..parameters.replicas / 2 } else { 0..0 };
        fleet.world.begin(parameters.quota);
        fleet.world.state().rejected_versions.insert(first_version);
        if scenario == Scenario::Rejected {
            fleet.send_requests();
            fleet.world.kill_connections();
        }
        fleet.kill(killed.clone()).await;
        let restarting = fleet.start(killed.clone(), parameters.spread);
        let rotating = async {
            if scenario.has_window() {
                sleep(WINDOW).await;
            }
            let (version, known) = (fleet.world.put_login(), Instant::now());
            if matches!(scenario, Scenario::Signal | Scenario::Crash) {
                fleet.signal(killed.end..parameters.replicas).await;
            }
            (version, known)
        };
        let ((version, known), ()) = tokio::join!(rotating, restarting);
        while fleet.holders(&version).len() < parameters.replicas && known.elapsed() < LONGEST {
            sleep(Duration::from_millis(100)).await;
        }
        fleet.outcome(known, &version)
    }

    /// Starts these replicas, one after the other within this time. Waits until they are ready, or have ended.
    async fn start(self: &Arc<Self>, replicas: Range<usize>, spread: Duration) {
        let begun = Instant::now();
        let mut starting = JoinSet::new();
        for replica in replicas {
            sleep_until(begun + self.turn(replica, spread)).await;
            starting.spawn(self.clone().start_one(replica));
        }
        starting.join_all().await;
    }

    async fn start_one(self: Arc<Self>, replica: usize) {
        let settings = Settings { replica, world: self.world.clone() };
        let mut config = Config { service: settings, ..Config::default() };
        config.secrets.refresh_every = self.parameters.refresh_every;
        if let Ok(harness) = Harness::<Replica>::start(self.world.clone(), config).await {
            harness.start_reloading();
            self.running().insert(replica, harness);
        }
    }

    /// Ends these replicas at once.
    async fn kill(&self, replicas: Range<usize>) {
        for replica in replicas {
            self.world.state().held.remove(&replica);
            let killed = self.running().remove(&replica);
            killed.expect("it runs").stop().await;
        }
    }

    /// Sends a SIGHUP to these replicas, one after the other.
    async fn signal(&self, replicas: Range<usize>) {
        let begun = Instant::now();
        for replica in replicas {
            sleep_until(begun + self.turn(replica, self.parameters.spread)).await;
            self.running()[&replica].signal();
        }
    }

    /// Returns the time until it is the turn of this replica, if all of them are spread over this time.
    fn turn(&self, replica: usize, spread: Duration) -> Duration {
        spread.mul_f64(replica as f64 / self.parameters.replicas as f64)
    }

    /// Has each replica use its connection now and again, as requests do.
    fn send_requests(&self) {
        for harness in self.running().values() {
            let live = harness.live();
            tokio::spawn(async move {
                sleep(BETWEEN_REQUESTS.mul_f64(fastrand::f64())).await;
                loop {
                    live.service().database.request().await;
                    sleep(BETWEEN_REQUESTS).await;
                }
            });
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<usize, Harness<Replica>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the times since which replicas hold this version.
    fn holders(&self, version: &VersionId) -> Vec<Instant> {
        let state = self.world.state();
        state.held.values().filter(|(held, _)| held == version).map(|(_, since)| *since).collect()
    }

    fn outcome(&self, known: Instant, version: &VersionId) -> Outcome {
        let holders = self.holders(version);
        let time = |since: Option<&Instant>| since.map_or(Duration::ZERO, |since| since.duration_since(known));
        let state = self.world.state();
        Outcome {
            failed: self.parameters.replicas - holders.len(),
            first: time(holders.iter().min()),
            last: time(holders.iter().max()),
            calls: state.bucket.requests(),
            throttled: state.bucket.throttled(),
            busiest_second: state.bucket.busiest_second(),
            log_ins: state.log_ins,
            rejected: state.rejected,
            connections: state.most_connections,
        }
    }
}
