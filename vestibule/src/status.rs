//! The status of the process, for `/status`, `/metrics` and readiness. It contains names, ids and versions, never a
//! secret's value.

pub(crate) mod check_status;
pub(crate) mod draining;
pub(crate) mod lease_status;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod readiness;
pub(crate) mod reload_record;
pub(crate) mod rotation;
pub(crate) mod writer;

mod reload_metrics;

use self::{
    check_status::CheckStatus,
    draining::DrainingGeneration,
    lease_status::LeaseStatus,
    readiness::{Readiness, ReadinessState, Staleness},
    reload_record::{ReloadOutcome, ReloadRecord, Trigger},
    rotation::LastRotation,
};
use crate::{
    application::{Application, Generation},
    auth::Authenticator,
    config::{
        IamDatabase,
        settings::{DatabaseAuth, DatabaseConfig},
    },
    credentials::login::{Host, PostgresName},
    last_uses::LastUses,
    moment::Moment,
    package::Package,
    resources::{connection_counter::ConnectionCounter, registry::RejectionObserver},
    secrets::{
        credential::Name,
        expiry::Expiry,
        fetch::ManagerStage,
        held::HeldCredential,
        id::{SecretId, VersionId},
        regions::Regions,
        version::{Stage, Versions},
    },
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, num::NonZeroU16, sync::Arc, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

/// The status of the process.
#[derive(Clone, Serialize)]
pub(crate) struct Status {
    /// An id that no other process has.
    pub(crate) instance: Uuid,
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    pub(crate) started: Moment,
    /// The time of the answer. The other times of this process are by the wall clock as it is set now, as this one is.
    #[serde(with = "time::serde::rfc3339")]
    now: OffsetDateTime,
    pub(crate) stopping: bool,
    /// The number of the generation in service.
    pub(crate) generation: u64,
    pub(crate) credentials: Vec<CredentialStatus>,
    /// The time at which the token of this process at the manager ends. Absent if there is none that ends.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    manager_token_end: Option<OffsetDateTime>,
    /// The databases that need no secret. Absent if there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    iam_databases: Vec<IamDatabaseStatus>,
    /// The keys that verify tokens. Absent if authentication is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication: Option<Arc<Authenticator>>,
    pub(crate) signals: SignalStatus,
    /// The last reload that ended.
    pub(crate) last_reload: Option<ReloadRecord>,
    /// Changed keys of the configuration that take effect only after a restart.
    pub(crate) needs_restart: Vec<String>,
    /// Older generations that somebody still holds something of.
    pub(crate) draining: Vec<DrainingGeneration>,
    pub(crate) readiness_checks: Vec<CheckStatus>,
    /// The last reload that published. `None` if the first generation is in service.
    pub(crate) rotation: Option<LastRotation>,
    /// The time at which the generation was put in service.
    #[serde(skip)]
    in_service_since: Moment,
    /// The last reloads, the oldest first.
    #[serde(skip)]
    past_reloads: Vec<PastReload>,
    #[serde(skip)]
    staleness: Staleness,
    /// The open connections of the generation in service.
    #[serde(skip)]
    connections: Vec<ConnectionCounter>,
    #[serde(skip)]
    rejections: RejectionObserver,
    #[serde(skip)]
    last_uses: Arc<LastUses>,
    #[serde(skip)]
    regions: Arc<Regions>,
}

/// The answer to an operator who has asked for a reload over the admin listener.
#[derive(Clone, Serialize)]
pub(crate) struct ReloadAnswer {
    instance: Uuid,
    /// The number of the generation in service after it.
    generation: u64,
    reload: ReloadRecord,
    credentials: Vec<CredentialStatus>,
}

/// A reload that ended, in the list on the page for people.
#[derive(Clone, Copy)]
struct PastReload {
    started: Moment,
    trigger: Trigger,
    outcome: ReloadOutcome,
    duration_ms: u64,
    exit_code: u8,
    /// The number of the generation in service after it.
    generation: u64,
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
    loaded: Moment,
    /// The time at which the manager last confirmed that it may be used.
    verified: Moment,
    /// The time at which this version expires, as a certificate does.
    expires: Option<Expiry>,
    /// The lease of this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseStatus>,
    /// The version that this one replaced, if this process has seen that.
    #[serde(skip)]
    replaced: Option<VersionId>,
    /// The last uses of the replaced version, and of those that only verify.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    last_used: Vec<LastUse>,
}

/// A database whose log-ins need no secret: a token is signed for each. It has no version, and nothing to rotate.
#[derive(Clone, Serialize)]
struct IamDatabaseStatus {
    /// The name of the credential that stands for it.
    name: String,
    auth: DatabaseAuth,
    username: Option<PostgresName>,
    host: Host,
    port: NonZeroU16,
}

impl IamDatabaseStatus {
    fn new(database: &IamDatabase<'_>) -> Self {
        let DatabaseConfig { auth, username, host, port, .. } = database.config;
        let (username, host) = (username.clone(), host.clone());
        Self { name: database.credential().to_owned(), auth: *auth, username, host, port: *port }
    }
}

/// The last use of a version that only verifies, or that was replaced.
#[derive(Clone, Serialize)]
struct LastUse {
    version: VersionId,
    /// `None` if this process has not used it.
    at: Option<Moment>,
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

/// The number of reloads that the page for people remembers.
const PAST_RELOADS: usize = 100;

impl Status {
    /// Returns the time at which the manager last confirmed a credential.
    #[cfg(test)]
    pub(crate) fn verified(&self, name: &str) -> tokio::time::Instant {
        let credential = self.credentials.iter().find(|credential| credential.name == name);
        tokio::time::Instant::now() - credential.expect("it is held").verified.elapsed()
    }

    /// Returns the status of a process with its first generation.
    pub(crate) fn new<A: Application>(
        package: &Package,
        generation: &Arc<Generation<A>>,
        last_uses: Arc<LastUses>,
        regions: Arc<Regions>,
    ) -> Self {
        let now = Moment::now();
        let mut status = Self {
            instance: Uuid::new_v4(),
            service: package.name,
            version: package.version,
            started: now,
            now: now.at(),
            stopping: false,
            generation: generation.number,
            credentials: Vec::new(),
            manager_token_end: regions.token_end(),
            iam_databases: Vec::new(),
            authentication: None,
            signals: SignalStatus::default(),
            last_reload: None,
            needs_restart: Vec::new(),
            draining: Vec::new(),
            readiness_checks: Vec::new(),
            rotation: None,
            in_service_since: now,
            past_reloads: Vec::new(),
            staleness: Staleness::jittered(),
            connections: Vec::new(),
            rejections: RejectionObserver::default(),
            last_uses,
            regions,
        };
        status.set_generation(generation, now);
        status
    }

    /// Records that this generation is in service.
    fn set_generation<A: Application>(&mut self, generation: &Arc<Generation<A>>, now: Moment) {
        self.generation = generation.number;
        self.authentication = generation.authenticator.clone();
        self.iam_databases =
            generation.config.iam_databases().map(|database| IamDatabaseStatus::new(&database)).collect();
        self.in_service_since = now;
        self.connections = generation.resources.connections().map(|(_, counter)| counter).collect();
        self.rejections = generation.resources.rejection_observer();
        self.staleness.configure(generation);
        let checks_before = std::mem::take(&mut self.readiness_checks);
        for check in generation.checks.iter() {
            let status = match checks_before.iter().find(|status| status.name == check.name) {
                Some(status) => status.in_next_generation(check),
                None => CheckStatus::new(check),
            };
            self.readiness_checks.push(status);
        }
        let drain = generation.config.server.drain;
        let before = std::mem::take(&mut self.credentials);
        for (name, held) in generation.credentials.iter() {
            let of_name = before.iter().find(|status| status.name == name && status.id == held.id);
            let status = match of_name {
                Some(status) if status.version == *held.in_use() => {
                    CredentialStatus { others: held.others(), lease: LeaseStatus::of(held, drain), ..status.clone() }
                }
                Some(status) => {
                    self.last_uses.record(name, &status.version);
                    let replaced = Some(status.version.clone());
                    CredentialStatus { replaced, ..CredentialStatus::new(name, held, drain, now) }
                }
                None => CredentialStatus::new(name, held, drain, now),
            };
            self.credentials.push(status);
        }
        self.last_uses.retain(|name, version| {
            let mut credentials = self.credentials.iter();
            credentials.any(|status| status.name == name && status.not_current().any(|other| other == version))
        });
    }

    /// Records the stages at which the manager has the versions in service.
    fn note_manager_stages(&mut self, stages: &BTreeMap<Name, ManagerStage>, now: Moment) {
        for credential in &mut self.credentials {
            let Some(stage) = stages.get(credential.name) else { continue };
            credential.stage = (*stage).into();
            if let ManagerStage::At(_) = stage {
                credential.verified = now;
            }
        }
    }

    /// Adds a reload that ended to those that the page for people shows.
    fn add_past_reload(&mut self, reload: &ReloadRecord) {
        let ReloadRecord { started, trigger, outcome, duration_ms, exit_code, .. } = *reload;
        if self.past_reloads.len() == PAST_RELOADS {
            self.past_reloads.remove(0);
        }
        let generation = self.generation;
        self.past_reloads.push(PastReload { started, trigger, outcome, duration_ms, exit_code, generation });
    }

    /// Returns a copy for this moment: without generations that are no longer in use.
    pub(crate) fn snapshot(&self) -> Self {
        let mut status = self.clone();
        status.now = OffsetDateTime::now_utc();
        status.manager_token_end = self.regions.token_end();
        status.draining.retain(DrainingGeneration::is_in_use);
        for draining in &status.draining {
            draining.record_use(&self.last_uses);
        }
        for credential in &mut status.credentials {
            credential.note_last_uses(&self.last_uses);
            credential.lease = credential.lease.as_ref().map(LeaseStatus::now);
            credential.verified = credential.last_verified();
        }
        status
    }

    /// Returns the readiness for requests.
    pub(crate) fn readiness(&self) -> Readiness {
        let verified = self.credentials.iter().map(|credential| (credential.name, credential.last_verified()));
        let mut readiness = self.staleness.readiness(verified, &self.readiness_checks, self.stopping);
        for credential in &self.credentials {
            if credential.lease.as_ref().is_some_and(LeaseStatus::has_ended) {
                readiness.status = ReadinessState::Unready;
                readiness.reasons.push(format!("the lease of credential `{}` has ended", credential.name));
            }
        }
        readiness
    }
}

impl CredentialStatus {
    fn new(name: Name, held: &HeldCredential, drain: Duration, now: Moment) -> Self {
        Self {
            name,
            id: held.id.clone(),
            version: held.in_use().clone(),
            stage: ManagerStage::At(held.stage).into(),
            others: held.others(),
            loaded: held.loaded,
            verified: now,
            expires: held.expiry,
            lease: LeaseStatus::of(held, drain),
            replaced: None,
            last_used: Vec::new(),
        }
    }

    /// Returns the time at which the manager last confirmed it. A renewal of its lease does so too.
    fn last_verified(&self) -> Moment {
        match &self.lease {
            Some(lease) => self.verified.later(lease.now().confirmed),
            None => self.verified,
        }
    }

    /// Returns the versions that only verify, and the one that was replaced.
    fn not_current(&self) -> impl Iterator<Item = &VersionId> {
        let replaced = self.replaced.iter().filter(|replaced| !self.others.values().any(|other| other == *replaced));
        self.others.values().chain(replaced)
    }

    fn note_last_uses(&mut self, last_uses: &LastUses) {
        let last_use = |version: &VersionId| LastUse { version: version.clone(), at: last_uses.of(self.name, version) };
        self.last_used = self.not_current().map(last_use).collect();
    }
}
