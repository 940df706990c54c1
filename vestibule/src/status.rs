//! What the process says of itself: to `/status`, to readiness, to systemd. Names, ids and versions, never a value.

use crate::{
    App,
    config::WhenStale,
    exit::Report,
    generation::Generation,
    secrets::{SecretId, Stage, VersionId, Versions},
    service::Service,
};
use serde::Serialize;
use std::{
    any::Any,
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
}

/// One credential of the generation in service.
#[derive(Clone, Serialize)]
pub(crate) struct CredentialStatus {
    name: &'static str,
    id: SecretId,
    /// The version in use, and its stage.
    version: VersionId,
    stage: Stage,
    /// The version held at each stage of which the kind is made.
    versions: Versions,
    /// When this version was fetched.
    #[serde(with = "time::serde::rfc3339")]
    loaded: OffsetDateTime,
    /// When the manager last said that it is current.
    #[serde(with = "time::serde::rfc3339")]
    verified: OffsetDateTime,
}

/// Signals that ask for a reload. A trip covers all that were seen before it started.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Signals {
    pub(crate) seen: u64,
    pub(crate) covered: u64,
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
}

/// What set off a trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    /// SIGHUP: the configuration is read again too.
    Signal,
    /// `secrets.refresh_every` passed.
    Poll,
}

/// How a trip ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// A new generation is in service.
    Published,
    /// Everything was as held.
    Unchanged,
    /// The trip failed; the generation in service stays.
    Kept,
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
    held: Weak<dyn Any + Send + Sync>,
}

fn holders<S: serde::Serializer>(held: &Weak<dyn Any + Send + Sync>, serializer: S) -> Result<S::Ok, S::Error> {
    let count = held.strong_count();
    serializer.collect_str(&format_args!(
        "{count} in use: requests in flight, or tasks that have not turned to the successor"
    ))
}

#[derive(Clone, Copy)]
struct Staleness {
    after: Duration,
    then: WhenStale,
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
    pub(crate) fn first<S: Service>(app: &App, generation: &Generation<S>) -> Self {
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
            stale: staleness(generation),
        };
        status.hold(generation, now);
        status
    }

    /// The generation in service is now this one, verified at `now`.
    fn hold<S: Service>(&mut self, generation: &Generation<S>, now: OffsetDateTime) {
        self.generation = generation.number;
        self.stale = staleness(generation);
        self.credentials = generation
            .keyring
            .iter()
            .map(|(name, held)| CredentialStatus {
                name,
                id: held.id.clone(),
                version: held.current().clone(),
                stage: Stage::Current,
                versions: held.versions.clone(),
                loaded: held.loaded,
                verified: now,
            })
            .collect();
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
            if now - credential.verified > self.stale.after {
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

fn staleness<S: Service>(generation: &Generation<S>) -> Staleness {
    let secrets = &generation.config.secrets;
    Staleness { after: secrets.max_stale, then: secrets.when_stale }
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

    pub(crate) fn published<S: Service>(&self, generation: &Generation<S>, retired: &Arc<Generation<S>>) {
        let now = OffsetDateTime::now_utc();
        let held: Weak<dyn Any + Send + Sync> = Arc::<Generation<S>>::downgrade(retired);
        self.0.send_modify(|status| {
            status.hold(generation, now);
            status.draining.retain(Draining::held);
            status.draining.push(Draining { generation: retired.number, since: now, held });
        });
    }

    pub(crate) fn verified(&self) {
        let now = OffsetDateTime::now_utc();
        self.0.send_modify(|status| {
            for credential in &mut status.credentials {
                credential.verified = now;
            }
        });
    }

    pub(crate) fn needs_restart(&self, keys: Vec<&'static str>) {
        self.0.send_modify(|status| status.needs_restart = keys);
    }

    pub(crate) fn trip_ended(&self, reload: Reload) {
        self.0.send_modify(|status| status.last_reload = Some(reload));
    }

    pub(crate) fn stopping(&self) {
        self.0.send_modify(|status| status.stopping = true);
    }
}

impl Reload {
    pub(crate) fn kept_because(report: &Report) -> (Outcome, Option<String>, u8) {
        (Outcome::Kept, Some(report.to_string()), report.exit() as u8)
    }
}
