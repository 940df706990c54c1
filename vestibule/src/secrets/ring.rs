//! What a trip brought home: credentials by name, and the faults among them.

use super::{
    Credential, Erased, Kind, Malformed, Manager, Name, SecretId, SecretSet, Stage, Value, Values, VersionId, Versions,
    Wanted, fetch,
};
use crate::exit::{Exit, Fault, Phase, Report};
use fetch::Outcome;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use time::OffsetDateTime;
use tokio::time::Instant;

/// One credential that a generation holds.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) id: SecretId,
    /// What it is made of. At [`Stage::Current`] stands the version in use, wherever the manager has it.
    pub(crate) versions: Versions,
    /// Where the manager had the version in use.
    pub(crate) stage: Stage,
    /// What the manager had at each stage that was asked for.
    pub(crate) fetched: Versions,
    pub(crate) loaded: OffsetDateTime,
    /// When the manager got the version in use.
    pub(crate) created: Option<OffsetDateTime>,
    /// When the version in use ends by itself.
    pub(crate) ends: Option<OffsetDateTime>,
    /// [`Values::took_over`].
    pub(crate) took_over: Option<OffsetDateTime>,
    credential: Erased,
}

impl Held {
    /// The version in use.
    pub(crate) fn in_use(&self) -> &VersionId {
        &self.versions[&Stage::Current]
    }

    /// What it is made of beside the version in use.
    pub(crate) fn others(&self) -> Versions {
        let others = self.versions.iter().filter(|(_, version)| *version != self.in_use());
        others.map(|(stage, version)| (*stage, version.clone())).collect()
    }

    /// Whether it has one of these versions, at whichever stage.
    pub(crate) fn has_any(&self, versions: &BTreeSet<VersionId>) -> bool {
        self.versions.values().chain(self.fetched.values()).any(|version| versions.contains(version))
    }

    fn same_as(&self, other: &Self) -> bool {
        self.id == other.id && self.versions == other.versions
    }
}

/// The credentials of a generation, whatever their kinds.
#[derive(Clone, Default)]
pub struct Keyring {
    held: BTreeMap<Name, Held>,
}

impl Keyring {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Name, &Held)> {
        self.held.iter().map(|(name, held)| (*name, held))
    }

    /// What is held of a credential, if it came from this id.
    pub(crate) fn get(&self, name: Name, id: &SecretId) -> Option<&Held> {
        self.held.get(name).filter(|held| held.id == *id)
    }

    pub(crate) fn named(&self, name: Name) -> Option<&Held> {
        self.held.get(name)
    }

    /// What is left without credentials that have one of these versions.
    pub(crate) fn without(&self, revoked: &BTreeSet<VersionId>) -> Self {
        let mut left = self.clone();
        left.held.retain(|_, held| !held.has_any(revoked));
        left
    }

    /// Whether both hold the same versions of the same secrets.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.held.len() == other.held.len()
            && self.iter().all(|(name, held)| other.named(name).is_some_and(|other| held.same_as(other)))
    }

    /// A version that was read again was loaded when it was read first.
    fn remember(&mut self, before: &Self) {
        for (name, held) in &mut self.held {
            if let Some(before) = before.named(name).filter(|before| held.same_as(before)) {
                held.loaded = before.loaded;
            }
        }
    }
}

/// What a ring was read to.
pub(crate) struct Set<S> {
    pub(crate) secrets: S,
    pub(crate) keyring: Keyring,
    /// What was wrong with credentials that are held as before.
    pub(crate) carried_over: Vec<(Name, Fault)>,
}

/// Why a ring could not be read.
pub(crate) struct Unread {
    pub(crate) report: Report,
    /// What else was wrong, and would not have been in the way.
    pub(crate) carried_over: Vec<(Name, Fault)>,
}

impl<S: SecretSet> Set<S> {
    /// The same credentials, but this one in its pending version, where there is one that may stand in.
    pub(crate) async fn with_pending(
        &self,
        name: Name,
        manager: Manager<'_>,
        before: &Keyring,
        doubted: &BTreeSet<Name>,
        deadline: Instant,
    ) -> Option<Self> {
        let current = self.keyring.named(name).filter(|held| held.stage == Stage::Current)?;
        let pending = fetch::pending(manager, &current.id, deadline).await?;
        let set: Self = Ring::with_pending(&self.keyring, name, pending, doubted).read(before).ok()?;
        set.keyring.named(name).is_some_and(|held| held.stage == Stage::Pending).then_some(set)
    }
}

/// The ring from which a [`SecretSet`] takes its credentials. It keeps count of what was wrong with them.
pub struct Ring<'a> {
    fetched: BTreeMap<Name, (SecretId, Outcome)>,
    /// A pending version that may stand in for the version read.
    pending: Option<(Name, Value)>,
    before: &'a Keyring,
    /// Credentials whose version in use is refused, or revoked. For their sake the faults of all others are carried over.
    doubted: &'a BTreeSet<Name>,
    /// `server.tls_names`.
    hosts: &'a [String],
    taken: Keyring,
    faults: Vec<Fault>,
    carried_over: Vec<(Name, Fault)>,
}

impl<'a> Ring<'a> {
    pub(crate) fn new(
        fetched: Vec<(Wanted, SecretId, Outcome)>,
        before: &'a Keyring,
        doubted: &'a BTreeSet<Name>,
    ) -> Self {
        let fetched = fetched.into_iter().map(|(wanted, id, outcome)| (wanted.name, (id, outcome))).collect();
        let (taken, faults, carried_over) = (Keyring::default(), Vec::new(), Vec::new());
        Self { fetched, pending: None, before, doubted, hosts: &[], taken, faults, carried_over }
    }

    /// The listeners' certificate must be valid for these.
    pub(crate) fn for_hosts(self, hosts: &'a [String]) -> Self {
        Self { hosts, ..self }
    }

    /// The same credentials again, one of them in its pending version if that may stand in for the one read.
    fn with_pending(keyring: &'a Keyring, name: Name, pending: Value, doubted: &'a BTreeSet<Name>) -> Self {
        let fetched = keyring.iter().map(|(name, held)| (name, (held.id.clone(), Outcome::Same))).collect();
        Self { fetched, pending: Some((name, pending)), ..Self::new(Vec::new(), keyring, doubted) }
    }

    /// The whole set, or every fault of every credential. What `before` holds already keeps the time of its loading.
    pub(crate) fn read<S: SecretSet>(mut self, before: &Keyring) -> Result<Set<S>, Unread> {
        let set = S::take(&mut self);
        if !self.faults.is_empty() {
            let report = Report { phase: Phase::Secrets, faults: self.faults };
            return Err(Unread { report, carried_over: self.carried_over });
        }
        let Some(secrets) = set else {
            let fault = Fault::new(
                Exit::Bug,
                "SecretSet::take",
                "it took no set off the ring, and noted no fault",
                "derive SecretSet instead of writing it",
            );
            return Err(Unread { report: Report::of(Phase::Secrets, fault), carried_over: self.carried_over });
        };
        self.taken.remember(before);
        Ok(Set { secrets, keyring: self.taken, carried_over: self.carried_over })
    }

    pub(super) fn asked_for(&self, name: Name) -> bool {
        self.fetched.contains_key(name)
    }

    pub(super) fn hosts(&self) -> &'a [String] {
        self.hosts
    }

    /// Takes one credential. `None`: its fault is noted.
    pub(super) fn take<K: Kind>(&mut self, name: Name) -> Option<Credential<K>> {
        self.take_if(name, |_: &K| Ok(()))
    }

    /// [`take`](Self::take), if the configuration has nothing against it.
    pub(super) fn take_if<K: Kind>(
        &mut self,
        name: Name,
        fits: impl Fn(&K) -> Result<(), Malformed>,
    ) -> Option<Credential<K>> {
        let (id, outcome) = self.fetched.remove(name)?;
        let before = self.before.get(name, &id);
        let read = match outcome {
            Outcome::Failed(fault) => Err(fault),
            // Only new versions are judged.
            Outcome::Same => Ok(before?.clone()),
            Outcome::New(values) => read::<K>(name, &id, &values),
        };
        let read = read.and_then(|held| match held.credential.downcast_ref().map_or(Ok(()), &fits) {
            Ok(()) => Ok(held),
            Err(unfit) => Err(malformed(name, &id, unfit)),
        });
        let held = match (read, before) {
            (Ok(held), _) => held,
            (Err(fault), Some(before)) if !self.doubted.is_empty() && !self.doubted.contains(name) => {
                self.carried_over.push((name, fault));
                before.clone()
            }
            (Err(fault), _) => {
                self.faults.push(fault);
                return None;
            }
        };
        let held = match self.pending.take_if(|(pending, _)| *pending == name) {
            Some((_, value)) => stand_in::<K>(&held, value).unwrap_or(held),
            None => held,
        };
        let credential = Credential {
            value: held.credential.clone().downcast::<K>().expect("a name has one kind in one service"),
            name,
            id,
            versions: held.versions.clone(),
        };
        self.taken.held.insert(name, held);
        Some(credential)
    }
}

fn malformed(name: Name, id: &SecretId, expected: Malformed) -> Fault {
    Fault::new(
        Exit::Malformed,
        super::subject(name, id),
        format!("the value is malformed: {expected}"),
        "put a value of this form at the manager, as a new version",
    )
}

fn read<K: Kind>(name: Name, id: &SecretId, values: &Values) -> Result<Held, Fault> {
    let credential = super::usable(values.current())
        .and_then(|()| K::read(values))
        .map_err(|expected| malformed(name, id, expected))?;
    let fetched = values.versions();
    let made_of = |(stage, _): &(&Stage, _)| K::STAGES.contains(stage);
    Ok(Held {
        id: id.clone(),
        versions: fetched.iter().filter(made_of).map(|(stage, version)| (*stage, version.clone())).collect(),
        stage: Stage::Current,
        fetched,
        loaded: OffsetDateTime::now_utc(),
        created: values.current().created,
        ends: credential.ends(),
        took_over: values.took_over(),
        credential: Arc::new(credential),
    })
}

/// The pending version in place of the current one, where it can be read and the kind allows it.
fn stand_in<K: Kind>(current: &Held, pending: Value) -> Option<Held> {
    let version = pending.version.clone();
    let pending = read::<K>("", &current.id, &Values::new(pending, BTreeMap::new(), None)).ok()?;
    let (now, next) = (current.credential.downcast_ref::<K>()?, pending.credential.downcast_ref::<K>()?);
    let mut fetched = current.fetched.clone();
    fetched.insert(Stage::Pending, version.clone());
    (version != *current.in_use() && now.yields_to(next)).then_some(Held { stage: Stage::Pending, fetched, ..pending })
}
