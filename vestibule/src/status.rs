//! The status of the process, for `/status`, `/metrics` and readiness. It contains names, ids and versions, never a
//! secret's value.

pub(crate) mod metrics;
pub(crate) mod readiness;
pub(crate) mod reload_record;
pub(crate) mod writer;

mod reload_metrics;

use self::{
    readiness::{Readiness, Staleness},
    reload_record::ReloadRecord,
};
use crate::{
    application::{Application, ErasedGeneration, Generation},
    package::Package,
    secrets::{
        credential::Name,
        fetch::ManagerStage,
        held::HeldCredential,
        id::{SecretId, VersionId},
        version::{Stage, Versions},
    },
};
use serde::{Serialize, Serializer};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
};
use time::OffsetDateTime;
use uuid::Uuid;

/// The status of the process.
#[derive(Clone, Serialize)]
pub(crate) struct Status {
    /// An id that no other process has.
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
    /// The last reload that ended.
    pub(crate) last_reload: Option<ReloadRecord>,
    /// Changed keys of the configuration that take effect only after a restart.
    pub(crate) needs_restart: Vec<&'static str>,
    pub(crate) draining: Vec<DrainingGeneration>,
    #[serde(skip)]
    staleness: Staleness,
    /// The generation in service. This handle does not keep it alive.
    #[serde(skip)]
    in_service: Weak<dyn ErasedGeneration>,
}

/// A credential of the generation in service.
#[derive(Clone, Serialize)]
pub(crate) struct CredentialStatus {
    name: &'static str,
    id: SecretId,
    /// The version in use.
    version: VersionId,
    /// The stage at which the manager has it.
    stage: HeldStage,
    /// Further versions in use, such as keys that verify and do not sign.
    #[serde(skip_serializing_if = "Versions::is_empty")]
    others: Versions,
    /// The time at which this version was fetched.
    #[serde(with = "time::serde::rfc3339")]
    loaded: OffsetDateTime,
    /// The time at which the manager last confirmed that it may be used.
    #[serde(with = "time::serde::rfc3339")]
    verified: OffsetDateTime,
    /// The time at which this version expires, as a certificate does.
    #[serde(with = "time::serde::rfc3339::option")]
    expires: Option<OffsetDateTime>,
}

/// The stage at which the manager has a version that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HeldStage {
    Current,
    /// A rotation has not ended, and the other side rejects the current version.
    Pending,
    /// Another version has replaced it at the manager, and that version could not be put in service.
    Unlabelled,
}

impl From<ManagerStage> for HeldStage {
    fn from(stage: ManagerStage) -> Self {
        match stage {
            ManagerStage::At(Stage::Current) => Self::Current,
            ManagerStage::At(Stage::Pending) => Self::Pending,
            ManagerStage::At(Stage::Previous) | ManagerStage::Unlabelled => Self::Unlabelled,
        }
    }
}

impl fmt::Display for HeldStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The signals that ask for a reload. A reload covers all that were received before it started.
#[derive(Clone, Default, Serialize)]
pub(crate) struct SignalStatus {
    pub(crate) seen: u64,
    pub(crate) covered: u64,
    /// The last reload that a signal triggered. Others may have followed.
    pub(crate) last_reload: Option<ReloadRecord>,
}

/// A generation that was replaced and is still in use.
#[derive(Clone, Serialize)]
pub(crate) struct DrainingGeneration {
    generation: u64,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    /// A handle that does not keep the generation alive. `/status` has its number of users under the key `reason`: they
    /// are the reason for which the generation is still there.
    #[serde(rename = "reason", serialize_with = "serialize_users")]
    weak: Weak<dyn ErasedGeneration>,
}

/// Writes the number of users of a generation, as text for people.
fn serialize_users<S: Serializer>(generation: &Weak<dyn ErasedGeneration>, serializer: S) -> Result<S::Ok, S::Error> {
    let count = generation.strong_count();
    serializer
        .collect_str(&format_args!("{count} in use: requests in flight, or tasks that have not moved to the successor"))
}

impl Status {
    /// Returns the status of a process with its first generation.
    pub(crate) fn new<A: Application>(package: &Package, generation: &Arc<Generation<A>>) -> Self {
        let now = OffsetDateTime::now_utc();
        let mut status = Self {
            instance: Uuid::new_v4(),
            pid: std::process::id(),
            service: package.name,
            version: package.version,
            started: now,
            stopping: false,
            generation: generation.number,
            credentials: Vec::new(),
            signals: SignalStatus::default(),
            last_reload: None,
            needs_restart: Vec::new(),
            draining: Vec::new(),
            staleness: Staleness::jittered(),
            in_service: erased(generation),
        };
        status.set_generation(generation, now);
        status
    }

    /// Records that this generation is in service.
    fn set_generation<A: Application>(&mut self, generation: &Arc<Generation<A>>, now: OffsetDateTime) {
        self.generation = generation.number;
        self.in_service = erased(generation);
        self.staleness.configure(generation);
        let before = std::mem::take(&mut self.credentials);
        for (name, held) in generation.credentials.iter() {
            let status = match before.iter().find(|status| status.is_of(name, held)) {
                Some(status) => CredentialStatus { others: held.others(), ..status.clone() },
                None => CredentialStatus::new(name, held, now),
            };
            self.credentials.push(status);
        }
    }

    /// Records the stages at which the manager has the versions in service.
    fn note_manager_stages(&mut self, stages: &BTreeMap<Name, ManagerStage>, now: OffsetDateTime) {
        for credential in &mut self.credentials {
            let Some(stage) = stages.get(credential.name) else { continue };
            credential.stage = (*stage).into();
            if let ManagerStage::At(_) = stage {
                credential.verified = now;
            }
        }
    }

    /// Returns a copy for this moment: without generations that are no longer in use.
    pub(crate) fn snapshot(&self) -> Self {
        let mut status = self.clone();
        status.draining.retain(DrainingGeneration::is_in_use);
        status
    }

    /// Returns the readiness for requests.
    pub(crate) fn readiness(&self) -> Readiness {
        let verified = self.credentials.iter().map(|credential| (credential.name, credential.verified));
        self.staleness.readiness(verified, self.stopping)
    }
}

impl CredentialStatus {
    fn new(name: Name, held: &HeldCredential, now: OffsetDateTime) -> Self {
        Self {
            name,
            id: held.id.clone(),
            version: held.in_use().clone(),
            stage: ManagerStage::At(held.stage).into(),
            others: held.others(),
            loaded: held.loaded,
            verified: now,
            expires: held.expires_at,
        }
    }

    /// Returns `true` if this is the status of the version that is held.
    fn is_of(&self, name: Name, held: &HeldCredential) -> bool {
        self.name == name && self.id == held.id && self.version == *held.in_use()
    }
}

impl DrainingGeneration {
    fn is_in_use(&self) -> bool {
        self.weak.strong_count() > 0
    }
}

fn erased<A: Application>(generation: &Arc<Generation<A>>) -> Weak<dyn ErasedGeneration> {
    Arc::<Generation<A>>::downgrade(generation)
}
