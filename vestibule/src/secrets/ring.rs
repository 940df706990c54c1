//! What a trip brought home: credentials by name, and the faults among them.

use super::{Credential, Erased, Kind, Name, SecretId, SecretSet, Stage, Versions, Wanted, fetch};
use crate::exit::{Exit, Fault, Phase, Report};
use fetch::Outcome;
use std::{collections::BTreeMap, sync::Arc};
use time::OffsetDateTime;

/// One credential that a generation holds.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) id: SecretId,
    pub(crate) versions: Versions,
    pub(crate) loaded: OffsetDateTime,
    credential: Erased,
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

    /// The versions held of a credential, if they came from this id.
    pub(crate) fn versions(&self, name: Name, id: &SecretId) -> Option<&Versions> {
        self.held.get(name).filter(|held| held.id == *id).map(|held| &held.versions)
    }

    /// Whether both hold the same versions of the same secrets.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        fn which((name, held): (Name, &Held)) -> (Name, &SecretId, &Versions) {
            (name, &held.id, &held.versions)
        }
        self.iter().map(which).eq(other.iter().map(which))
    }
}

/// The ring from which a [`SecretSet`] takes its credentials. It keeps count of what was wrong with them.
pub struct Ring<'a> {
    fetched: BTreeMap<Name, (Wanted, SecretId, Outcome)>,
    before: &'a Keyring,
    taken: Keyring,
    faults: Vec<Fault>,
}

impl<'a> Ring<'a> {
    pub(crate) fn new(fetched: Vec<(Wanted, SecretId, Outcome)>, before: &'a Keyring) -> Self {
        let fetched = fetched.into_iter().map(|one| (one.0.name, one)).collect();
        Self { fetched, before, taken: Keyring::default(), faults: Vec::new() }
    }

    /// The whole set, or every fault of every credential.
    pub(crate) fn read<S: SecretSet>(mut self) -> Result<(S, Keyring), Report> {
        let set = S::take(&mut self);
        Report::unless_clean(Phase::Secrets, self.faults)?;
        match set {
            Some(set) => Ok((set, self.taken)),
            None => Err(Report::of(
                Phase::Secrets,
                Fault::new(
                    Exit::Bug,
                    "SecretSet::take",
                    "it took no set off the ring, and noted no fault",
                    "derive SecretSet instead of writing it",
                ),
            )),
        }
    }

    pub(super) fn asked_for(&self, name: Name) -> bool {
        self.fetched.contains_key(name)
    }

    /// Takes one credential. `None`: its fault is noted.
    pub(super) fn take<K: Kind>(&mut self, name: Name) -> Option<Credential<K>> {
        let (wanted, id, outcome) = self.fetched.remove(name)?;
        let held = match outcome {
            Outcome::Failed(fault) => {
                self.faults.push(fault);
                return None;
            }
            // Only new versions are judged.
            Outcome::Same => self.before.held.get(name)?.clone(),
            Outcome::New(values) => {
                let read = super::usable(values.current()).and_then(|()| K::read(&values)).map_err(|malformed| {
                    Fault::new(
                        Exit::Malformed,
                        super::subject(wanted.name, &id),
                        format!("the value is malformed: {malformed}"),
                        "put a value of this form at the manager, as a new version",
                    )
                });
                match read {
                    Ok(credential) => Held {
                        id,
                        versions: values.versions(),
                        loaded: OffsetDateTime::now_utc(),
                        credential: Arc::new(credential),
                    },
                    Err(fault) => {
                        self.faults.push(fault);
                        return None;
                    }
                }
            }
        };
        let credential = Credential {
            value: held.credential.clone().downcast::<K>().expect("a name has one kind in one service"),
            name,
            id: held.id.clone(),
            versions: held.versions.clone(),
        };
        self.taken.held.insert(name, held);
        Some(credential)
    }
}

impl Held {
    /// The version in use.
    pub(crate) fn current(&self) -> &super::VersionId {
        &self.versions[&Stage::Current]
    }
}
