//! What the process says of itself: to `/status`, `/metrics`, readiness, systemd. Names, ids and versions, never a value.

pub(crate) mod metrics;

mod tally;

use crate::{
    App,
    config::WhenStale,
    counters::Counters,
    exit::Fault,
    generation::{self, Generation},
    secrets::{Held, Name, SecretId, Seen, Stage, VersionId, Versions},
    service::Service,
    status::tally::Tally,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

/// The process's status.
#[derive(Clone, Serialize)]
pub(crate) struct Status {
    /// Differs between any two processes.
    pub(crate) instance: Uuid,
    pub(crate) pid: u32,
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) started: OffsetDateTime,
    pub(crate) stopping: bool,
    /// The number of the generation in service.
    pub(crate) generation: u64,
    pub(crate) credentials: Vec<CredentialStatus>,
    pub(crate) signals: Signals,
    /// The last trip that ended.
    pub(crate) last_reload: Option<Reload>,
    /// Keys of the configuration whose new values only a restart takes up.
    pub(crate) needs_restart: Vec<&'static str>,
    pub(crate) draining: Vec<Draining>,
    #[serde(skip)]
    stale: Staleness,
    #[serde(skip)]
    tally: Tally,
    /// What the service counts.
    #[serde(skip)]
    counters: Arc<Counters>,
    /// The generation in service. Never keeps it alive.
    #[serde(skip)]
    in_service: Weak<dyn generation::Erased>,
}

/// One credential of the generation in service.
#[derive(Clone, Serialize)]
pub(crate) struct CredentialStatus {
    name: &'static str,
    id: SecretId,
    /// The version in use.
    version: VersionId,
    /// Where the manager has it.
    stage: Label,
    /// Versions that it has beside, such as keys that verify and do not sign.
    #[serde(skip_serializing_if = "Versions::is_empty")]
    others: Versions,
    /// When this version was fetched.
    #[serde(with = "time::serde::rfc3339")]
    loaded: OffsetDateTime,
    /// When the manager last said that it may be used.
    #[serde(with = "time::serde::rfc3339")]
    verified: OffsetDateTime,
    /// When this version ends by itself, as a certificate does.
    #[serde(with = "time::serde::rfc3339::option")]
    expires: Option<OffsetDateTime>,
}

/// Where the manager has a version that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Label {
    Current,
    /// A rotation has not ended, and the other side refuses the current version.
    Pending,
    /// Another version has taken its place, and could not be put in service.
    Unlabelled,
}

impl From<Seen> for Label {
    fn from(seen: Seen) -> Self {
        match seen {
            Seen::At(Stage::Current) => Self::Current,
            Seen::At(Stage::Pending) => Self::Pending,
            Seen::At(Stage::Previous) | Seen::Unlabelled => Self::Unlabelled,
        }
    }
}

/// Signals that ask for a reload. A trip covers all that were seen before it started.
#[derive(Clone, Default, Serialize)]
pub(crate) struct Signals {
    pub(crate) seen: u64,
    pub(crate) covered: u64,
    /// The last trip that a signal set off; others may have followed.
    pub(crate) last_reload: Option<Reload>,
}

/// A trip that ended.
#[derive(Clone, Serialize)]
pub(crate) struct Reload {
    pub(crate) trigger: Trigger,
    pub(crate) outcome: Outcome,
    /// All signals up to this one are covered.
    pub(crate) signals_covered: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) started: OffsetDateTime,
    pub(crate) duration_ms: u64,
    /// Every fault, when the outcome is `kept`.
    pub(crate) error: Option<String>,
    /// The code with which a start would have ended.
    pub(crate) exit_code: u8,
    /// What could not be used, and was left as it was, so that a refused login could be replaced.
    pub(crate) carried_over: Vec<CarriedOver>,
}

/// A credential that stays at the version held, because it could not be used, or not be had in time.
#[derive(Clone, Serialize)]
pub(crate) struct CarriedOver {
    pub(crate) credential: Name,
    pub(crate) problem: String,
}

impl From<(Name, Fault)> for CarriedOver {
    fn from((credential, fault): (Name, Fault)) -> Self {
        Self { credential, problem: fault.problem }
    }
}

/// What set off a trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    /// SIGHUP: the configuration is read again too.
    Signal,
    /// `secrets.refresh_every` passed.
    Poll,
    /// The database refused the login in service.
    RefusedLogin,
    /// Another service refused the API key in service.
    RefusedKey,
    /// A client brought what a key has signed that is not held.
    UnknownKey,
    /// A trip before it was kept for a reason that may pass.
    Retry,
}

/// How a trip ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// A new generation is in service.
    Published,
    /// Everything was as held.
    Unchanged,
    /// The trip failed; the generation in service stays.
    Kept,
}

impl Trigger {
    const ALL: [Self; 6] =
        [Self::Signal, Self::Poll, Self::RefusedLogin, Self::RefusedKey, Self::UnknownKey, Self::Retry];
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Published, Self::Unchanged, Self::Kept];
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A generation that is no longer in service and still held.
#[derive(Clone, Serialize)]
pub(crate) struct Draining {
    generation: u64,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    #[serde(rename = "reason", serialize_with = "holders")]
    held: Weak<dyn generation::Erased>,
}

fn holders<S: serde::Serializer>(held: &Weak<dyn generation::Erased>, serializer: S) -> Result<S::Ok, S::Error> {
    let count = held.strong_count();
    serializer.collect_str(&format_args!(
        "{count} in use: requests in flight, or tasks that have not turned to the successor"
    ))
}

#[derive(Clone, Copy)]
struct Staleness {
    after: Duration,
    then: WhenStale,
    /// Of `after`, give or take 10 %: a fleet that started together must not become unready together.
    part: f64,
}

impl Staleness {
    fn jittered() -> Self {
        Self { after: Duration::MAX, then: WhenStale::Report, part: 0.9 + 0.2 * fastrand::f64() }
    }

    fn configure<S: Service>(&mut self, generation: &Generation<S>) {
        let secrets = &generation.config.secrets;
        (self.after, self.then) = (secrets.max_stale, secrets.when_stale);
    }
}

/// Whether requests should come, and why not.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    pub(crate) status: Condition,
    pub(crate) reasons: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    Ready,
    Degraded,
    Unready,
}

impl Status {
    /// The status of a process with its first generation.
    pub(crate) fn first<S: Service>(app: &App, generation: &Arc<Generation<S>>, counters: Arc<Counters>) -> Self {
        let now = OffsetDateTime::now_utc();
        let mut status = Self {
            instance: Uuid::new_v4(),
            pid: std::process::id(),
            service: app.name,
            version: app.version,
            started: now,
            stopping: false,
            generation: generation.number,
            credentials: Vec::new(),
            signals: Signals::default(),
            last_reload: None,
            needs_restart: Vec::new(),
            draining: Vec::new(),
            stale: Staleness::jittered(),
            tally: Tally::default(),
            counters,
            in_service: erased(generation),
        };
        status.hold(generation, now);
        status
    }

    /// The generation in service is now this one.
    fn hold<S: Service>(&mut self, generation: &Arc<Generation<S>>, now: OffsetDateTime) {
        self.generation = generation.number;
        self.in_service = erased(generation);
        self.stale.configure(generation);
        let before = std::mem::take(&mut self.credentials);
        let credential = |(name, held): (Name, &Held)| {
            let same = |one: &&CredentialStatus| one.name == name && one.id == held.id && one.version == *held.in_use();
            let known = before.iter().find(same).cloned();
            let known = known.unwrap_or_else(|| CredentialStatus {
                name,
                id: held.id.clone(),
                version: held.in_use().clone(),
                stage: Seen::At(held.stage).into(),
                others: Versions::new(),
                loaded: held.loaded,
                verified: now,
                expires: held.ends,
            });
            CredentialStatus { others: held.others(), ..known }
        };
        self.credentials = generation.keyring.iter().map(credential).collect();
    }

    /// What the manager said of the versions in service.
    fn see(&mut self, seen: &BTreeMap<Name, Seen>, now: OffsetDateTime) {
        for credential in &mut self.credentials {
            let Some(seen) = seen.get(credential.name) else { continue };
            credential.stage = (*seen).into();
            if let Seen::At(_) = seen {
                credential.verified = now;
            }
        }
    }

    /// As it is at this moment: with the signals seen, without the generations that nobody holds any more.
    pub(crate) fn now(&self, signals_seen: u64) -> Self {
        let mut status = self.clone();
        status.signals.seen = signals_seen;
        status.draining.retain(Draining::held);
        status
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let now = OffsetDateTime::now_utc();
        let mut status = Condition::Ready;
        let mut reasons = Vec::new();
        for credential in &self.credentials {
            if now - credential.verified > self.stale.after.mul_f64(self.stale.part) {
                status = match self.stale.then {
                    WhenStale::Report => Condition::Degraded,
                    WhenStale::Unready => Condition::Unready,
                };
                reasons.push(format!(
                    "credential `{}` was last verified at {}, longer ago than secrets.max_stale",
                    credential.name, credential.verified
                ));
            }
        }
        if self.stopping {
            status = Condition::Unready;
            reasons.push("the process is stopping".into());
        }
        Readiness { status, reasons }
    }
}

impl Draining {
    fn held(&self) -> bool {
        self.held.strong_count() > 0
    }
}

fn erased<S: Service>(generation: &Arc<Generation<S>>) -> Weak<dyn generation::Erased> {
    Arc::<Generation<S>>::downgrade(generation)
}

/// Where the status is written, by the reload actor and the shutdown alone.
#[derive(Clone)]
pub(crate) struct Board(Arc<watch::Sender<Status>>);

impl Board {
    pub(crate) fn new(status: Status) -> Self {
        Self(Arc::new(watch::Sender::new(status)))
    }

    pub(crate) fn read(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    pub(crate) fn trip_started(&self, signals_covered: u64) {
        self.0.send_modify(|status| status.signals.covered = signals_covered);
    }

    pub(crate) fn published<S: Service>(
        &self,
        generation: &Arc<Generation<S>>,
        replaced: &Arc<Generation<S>>,
        seen: &BTreeMap<Name, Seen>,
        needs_restart: Vec<&'static str>,
    ) {
        let now = OffsetDateTime::now_utc();
        self.0.send_modify(|status| {
            status.see(seen, now);
            status.hold(generation, now);
            status.needs_restart = needs_restart;
            status.draining.retain(Draining::held);
            status.draining.push(Draining { generation: replaced.number, since: now, held: erased(replaced) });
        });
    }

    /// Nothing was published; so much the manager said.
    pub(crate) fn seen(&self, seen: &BTreeMap<Name, Seen>) {
        self.0.send_modify(|status| status.see(seen, OffsetDateTime::now_utc()));
    }

    /// The error of the last trip.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.0.borrow().last_reload.as_ref()?.error.clone()
    }

    pub(crate) fn trip_ended(&self, reload: Reload) {
        self.0.send_modify(|status| {
            status.tally.add(&reload);
            if reload.trigger == Trigger::Signal {
                status.signals.last_reload = Some(reload.clone());
            }
            status.last_reload = Some(reload);
        });
    }

    pub(crate) fn stopping(&self) {
        self.0.send_modify(|status| status.stopping = true);
    }
}

impl Reload {
    /// A trip that has not ended well, yet.
    pub(crate) fn new(trigger: Trigger, signals_covered: u64, started: OffsetDateTime) -> Self {
        Self {
            trigger,
            outcome: Outcome::Kept,
            signals_covered,
            started,
            duration_ms: 0,
            error: None,
            exit_code: 0,
            carried_over: Vec::new(),
        }
    }
}
