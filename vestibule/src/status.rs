//! The status of the process, for `/status`, `/metrics`, readiness and systemd. It has names, ids and versions, never a
//! value.

pub(crate) mod metrics;
pub(crate) mod readiness;
pub(crate) mod reload_record;
pub(crate) mod writer;

mod reload_counts;

use self::{
    readiness::{Readiness, Staleness},
    reload_counts::ReloadCounts,
    reload_record::ReloadRecord,
};
use crate::{
    application::{Application, ErasedGeneration, Generation},
    counters::Counters,
    package::Package,
    secrets::{
        credential::Name,
        fetch::ManagerStage,
        held::HeldCredential,
        id::{SecretId, VersionId},
        version::{Stage, Versions},
    },
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};
use time::OffsetDateTime;
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
    pub(crate) signals: SignalStatus,
    /// The last trip that ended.
    pub(crate) last_reload: Option<ReloadRecord>,
    /// Keys of the configuration whose new values only a restart takes up.
    pub(crate) needs_restart: Vec<&'static str>,
    pub(crate) draining: Vec<DrainingGeneration>,
    #[serde(skip)]
    staleness: Staleness,
    #[serde(skip)]
    reload_counts: ReloadCounts,
    /// What the service counts.
    #[serde(skip)]
    counters: Arc<Counters>,
    /// The generation in service. Never keeps it alive.
    #[serde(skip)]
    in_service: Weak<dyn ErasedGeneration>,
}

/// One credential of the generation in service.
#[derive(Clone, Serialize)]
pub(crate) struct CredentialStatus {
    name: &'static str,
    id: SecretId,
    /// The version in use.
    version: VersionId,
    /// Where the manager has it.
    stage: HeldStage,
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
pub(crate) enum HeldStage {
    Current,
    /// A rotation has not ended, and the other side refuses the current version.
    Pending,
    /// Another version has taken its place, and could not be put in service.
    Unlabelled,
}

impl From<ManagerStage> for HeldStage {
    fn from(seen: ManagerStage) -> Self {
        match seen {
            ManagerStage::At(Stage::Current) => Self::Current,
            ManagerStage::At(Stage::Pending) => Self::Pending,
            ManagerStage::At(Stage::Previous) | ManagerStage::Unlabelled => Self::Unlabelled,
        }
    }
}

/// SignalStatus that ask for a reload. A trip covers all that were seen before it started.
#[derive(Clone, Default, Serialize)]
pub(crate) struct SignalStatus {
    pub(crate) seen: u64,
    pub(crate) covered: u64,
    /// The last trip that a signal set off; others may have followed.
    pub(crate) last_reload: Option<ReloadRecord>,
}

/// A generation that is no longer in service and still held.
#[derive(Clone, Serialize)]
pub(crate) struct DrainingGeneration {
    generation: u64,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    #[serde(rename = "reason", serialize_with = "holders")]
    held: Weak<dyn ErasedGeneration>,
}

fn holders<Z: serde::Serializer>(held: &Weak<dyn ErasedGeneration>, serializer: Z) -> Result<Z::Ok, Z::Error> {
    let count = held.strong_count();
    serializer.collect_str(&format_args!(
        "{count} in use: requests in flight, or tasks that have not turned to the successor"
    ))
}

impl Status {
    /// The status of a process with its first generation.
    pub(crate) fn first<A: Application>(
        app: &Package,
        generation: &Arc<Generation<A>>,
        counters: Arc<Counters>,
    ) -> Self {
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
            signals: SignalStatus::default(),
            last_reload: None,
            needs_restart: Vec::new(),
            draining: Vec::new(),
            staleness: Staleness::jittered(),
            reload_counts: ReloadCounts::default(),
            counters,
            in_service: erased(generation),
        };
        status.hold(generation, now);
        status
    }

    /// The generation in service is now this one.
    fn hold<A: Application>(&mut self, generation: &Arc<Generation<A>>, now: OffsetDateTime) {
        self.generation = generation.number;
        self.in_service = erased(generation);
        self.staleness.configure(generation);
        let before = std::mem::take(&mut self.credentials);
        let credential = |(name, held): (Name, &HeldCredential)| {
            let same = |one: &&CredentialStatus| one.name == name && one.id == held.id && one.version == *held.in_use();
            let known = before.iter().find(same).cloned();
            let known = known.unwrap_or_else(|| CredentialStatus {
                name,
                id: held.id.clone(),
                version: held.in_use().clone(),
                stage: ManagerStage::At(held.stage).into(),
                others: Versions::new(),
                loaded: held.loaded,
                verified: now,
                expires: held.expires_at,
            });
            CredentialStatus { others: held.others(), ..known }
        };
        self.credentials = generation.credentials.iter().map(credential).collect();
    }

    /// What the manager said of the versions in service.
    fn see(&mut self, seen: &BTreeMap<Name, ManagerStage>, now: OffsetDateTime) {
        for credential in &mut self.credentials {
            let Some(seen) = seen.get(credential.name) else { continue };
            credential.stage = (*seen).into();
            if let ManagerStage::At(_) = seen {
                credential.verified = now;
            }
        }
    }

    /// As it is at this moment: with the signals seen, without the generations that nobody holds any more.
    pub(crate) fn now(&self, signals_seen: u64) -> Self {
        let mut status = self.clone();
        status.signals.seen = signals_seen;
        status.draining.retain(DrainingGeneration::held);
        status
    }

    /// Returns whether requests should come, and why not.
    pub(crate) fn readiness(&self) -> Readiness {
        let verified = self.credentials.iter().map(|credential| (credential.name, credential.verified));
        self.staleness.readiness(verified, self.stopping)
    }
}

impl DrainingGeneration {
    fn held(&self) -> bool {
        self.held.strong_count() > 0
    }
}

fn erased<A: Application>(generation: &Arc<Generation<A>>) -> Weak<dyn ErasedGeneration> {
    Arc::<Generation<A>>::downgrade(generation)
}
