//! The resolver: it makes one credential of what was fetched, or keeps what is held, or records the fault.

use super::{
    credential::{Credential, Name, subject},
    fetch::{FetchOutcome, UnusableValue},
    held::{HeldCredential, HeldCredentials},
    id::SecretId,
    kind::{Kind, Malformed},
    secret_parts::SecretParts,
    shape,
    spec::CredentialSpec,
    version::{SecretValue, SecretValues, Stage},
};
use crate::{
    exit::{Exit, Fault},
    moment::Moment,
    telemetry::live_secrets,
};
use secrecy::ExposeSecret;
use std::{any::Any, collections::BTreeMap, sync::Arc};

/// The largest secret, in bytes. AWS has the same limit (`GetSecretValue`, *SecretString*).
pub const MAX_BYTES: usize = 64 * 1024;

/// A resolver: it turns fetched values into the credentials of a [`SecretSet`](super::SecretSet), and keeps the faults.
pub struct Resolver<'a> {
    fetched: BTreeMap<Name, (SecretId, FetchOutcome)>,
    /// A pending version that may be used in place of the current one.
    pending: Option<(Name, SecretValue)>,
    /// A credential that is held stays as it is if its new version has a fault. The loader decides if that is good enough.
    held: &'a HeldCredentials,
    /// `server.tls_names`.
    hosts: &'a [String],
    /// `true` if the hosts changed, so that the held certificate is compared with them too.
    are_hosts_new: bool,
    pub(crate) resolved: HeldCredentials,
    pub(super) faults: Vec<Fault>,
    pub(super) carried_over: Vec<(Name, Fault)>,
    /// The values that the manager made for this load, or for one before, and that cannot be used.
    pub(crate) unusable: Vec<(Name, SecretId, UnusableValue)>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(fetched: Vec<(CredentialSpec, SecretId, FetchOutcome)>, held: &'a HeldCredentials) -> Self {
        Self {
            fetched: fetched.into_iter().map(|(spec, id, outcome)| (spec.name, (id, outcome))).collect(),
            pending: None,
            held,
            hosts: &[],
            are_hosts_new: false,
            resolved: HeldCredentials::default(),
            faults: Vec::new(),
            carried_over: Vec::new(),
            unusable: Vec::new(),
        }
    }

    /// Sets the hosts for which the listeners' certificate must be valid. A certificate that is held is compared with them
    /// only if `are_new`.
    pub(crate) fn for_hosts(self, hosts: &'a [String], are_new: bool) -> Self {
        Self { hosts, are_hosts_new: are_new, ..self }
    }

    /// Makes a resolver of credentials that were resolved already.
    pub(super) fn of_resolved(credentials: &'a HeldCredentials) -> Self {
        let fetched = credentials.iter().map(|(name, held)| (name, (held.id.clone(), FetchOutcome::Same))).collect();
        Self { fetched, ..Self::new(Vec::new(), credentials) }
    }

    /// Uses the pending version of a credential in place of the current one, if its kind allows that.
    pub(super) fn with_pending(self, name: Name, pending: SecretValue) -> Self {
        Self { pending: Some((name, pending)), ..self }
    }

    /// Adds credentials that were fetched after the others. Those that are resolved already stay so.
    pub(crate) fn add(&mut self, fetched: Vec<(CredentialSpec, SecretId, FetchOutcome)>) {
        self.fetched.extend(fetched.into_iter().map(|(spec, id, outcome)| (spec.name, (id, outcome))));
    }

    /// Returns `true` if a credential that is not held has a fault.
    pub(crate) fn has_fault(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Returns the names of the credentials that are not resolved yet.
    pub(crate) fn names(&self) -> impl Iterator<Item = Name> {
        self.fetched.keys().copied()
    }

    pub(crate) fn was_fetched(&self, name: Name) -> bool {
        self.fetched.contains_key(name) || self.resolved.named(name).is_some()
    }

    pub(crate) fn hosts(&self) -> &'a [String] {
        self.hosts
    }

    /// Resolves one credential. Returns `None` if that failed, and keeps the fault.
    pub(crate) fn resolve<K: Kind>(&mut self, name: Name) -> Option<Credential<K>> {
        self.resolve_if(name, |_: &K| Ok(()))
    }

    /// Resolves one credential that must also pass `check`. Returns `None` if that failed, and keeps the fault.
    pub(crate) fn resolve_if<K: Kind>(
        &mut self,
        name: Name,
        check: impl Fn(&K) -> Result<(), Malformed>,
    ) -> Option<Credential<K>> {
        if let Some(resolved) = self.resolved.named(name) {
            return Some(credential_of(name, resolved));
        }
        let Some((id, outcome)) = self.fetched.remove(name) else {
            return Some(Credential::without_secret(name, K::without_secret()?));
        };
        let held = self.held.get(name, &id);
        let made = match &outcome {
            FetchOutcome::New(values) if values.current().lease.is_some() => Some(values.clone()),
            _ => None,
        };
        let (read_or_held, is_judged) = match outcome {
            FetchOutcome::Failed(fault) => (Err(fault), false),
            // The manager's answer was compared with this one, so there is one.
            FetchOutcome::Same => (Ok(held?.clone()), self.are_hosts_new),
            // The hosts may have changed since it was made.
            FetchOutcome::Candidate(credential) => (Ok(credential), true),
            FetchOutcome::New(values) => (read::<K>(name, &id, &values), true),
        };
        let checked = match read_or_held {
            Ok(credential) if is_judged => match check(&credential.value::<K>()) {
                Ok(()) => Ok(credential),
                Err(expected) => Err(malformed(name, &id, &expected, "")),
            },
            other => other,
        };
        let mut resolved = match checked {
            Ok(credential) => credential,
            Err(fault) => {
                if let Some(made) = made {
                    self.unusable.push((name, id, unusable(made, &fault)));
                }
                self.carry_over_or_fail(name, held, fault)?
            }
        };
        if let Some((_, pending)) = self.pending.take_if(|(of, _)| *of == name)
            && let Some(fallback) = fall_back_to::<K>(name, &resolved, pending)
        {
            resolved = fallback;
        }
        let credential = credential_of(name, &resolved);
        self.resolved.insert(name, resolved);
        Some(credential)
    }

    /// Returns what is held, if there is something. Keeps the fault either way.
    fn carry_over_or_fail(
        &mut self,
        name: Name,
        held: Option<&HeldCredential>,
        fault: Fault,
    ) -> Option<HeldCredential> {
        let Some(held) = held else {
            self.faults.push(fault);
            return None;
        };
        self.carried_over.push((name, fault));
        Some(held.clone())
    }
}

fn credential_of<K: Kind>(name: Name, held: &HeldCredential) -> Credential<K> {
    let HeldCredential { id, versions, lease, .. } = held;
    Credential { value: held.value(), name, id: Some(id.clone()), versions: versions.clone(), lease: lease.clone() }
}

/// Returns the fault of a value. `seen` says which form it has, if that helps.
fn malformed(name: Name, id: &SecretId, expected: &Malformed, seen: &str) -> Fault {
    if expected.is_too_early() {
        return by_clock(name, id, expected);
    }
    let seen = if seen.is_empty() { String::new() } else { format!("; seen: {seen}") };
    Fault::new(
        Exit::Malformed,
        subject(name, id),
        format!("the value is malformed: {expected}{seen}"),
        "put a value of this form at the manager, as a new version",
    )
}

/// Returns what the next load shall know of a value with this fault.
fn unusable(made: Arc<SecretValues>, fault: &Fault) -> UnusableValue {
    let has_ended = made.current().lease.as_ref().is_none_or(|lease| lease.has_ended());
    if fault.exit == Exit::Unavailable && !has_ended {
        UnusableValue::TooEarly(made)
    } else {
        UnusableValue::Malformed(fault.clone())
    }
}

/// Returns the fault of a value that is right, but not by the clock of this machine.
fn by_clock(name: Name, id: &SecretId, expected: &Malformed) -> Fault {
    let remedy = "compare its dates with the clock of this machine, and set the clock (NTP)";
    let problem = format!("the value cannot be used now: {expected}");
    Fault::new(Exit::Unavailable, subject(name, id), problem, remedy)
}

fn read<K: Kind>(name: Name, id: &SecretId, values: &SecretValues) -> Result<HeldCredential, Fault> {
    check_size(values.current()).map_err(|expected| malformed(name, id, &expected, ""))?;
    let credential = K::read(values).map_err(|expected| {
        let SecretValue { text, lease, .. } = values.current();
        // The manager made it just now, so it can only be the clock of this machine.
        if lease.as_ref().is_some_and(|lease| lease.has_ended()) {
            return by_clock(name, id, &expected);
        }
        malformed(name, id, &expected, &shape::of(text.expose_secret()))
    })?;
    let fetched = values.versions();
    let mut versions = fetched.clone();
    versions.retain(|stage, _| K::STAGES.contains(stage));
    let mut unused = versions.clone();
    unused.retain(|stage, version| *version != values.current().version && !credential.uses(*stage));
    let mut parts = SecretParts::default();
    credential.secret_parts(values, &mut parts);
    let expiry = credential.expiry();
    let value: Arc<dyn Any + Send + Sync> = Arc::new(credential);
    Ok(HeldCredential {
        id: id.clone(),
        versions,
        unused,
        stage: Stage::Current,
        fetched,
        loaded: Moment::now(),
        created: values.current().created,
        expiry,
        lease: values.current().lease.clone(),
        current_since: values.seen_current(),
        in_log: Arc::new(live_secrets::watch(name, &value, parts)),
        value,
    })
}

/// Returns the pending version, if it can be read and its kind allows to use it in place of the current one.
fn fall_back_to<K: Kind>(name: Name, current: &HeldCredential, pending: SecretValue) -> Option<HeldCredential> {
    let version = pending.version.clone();
    let fallback = read::<K>(name, &current.id, &SecretValues::new(pending, BTreeMap::new(), None)).ok()?;
    let allowed = version != *current.in_use() && current.value::<K>().can_fall_back_to(&fallback.value());
    if !allowed {
        return None;
    }
    let mut fetched = current.fetched.clone();
    fetched.insert(Stage::Pending, version);
    Some(HeldCredential { stage: Stage::Pending, fetched, ..fallback })
}

/// Refuses an empty, blank or too large value. Managers accept all three.
pub(crate) fn check_size(value: &SecretValue) -> Result<(), Malformed> {
    let text = value.text.expose_secret();
    if shape::without_byte_order_mark(text).trim().is_empty() {
        return Err(Malformed::expected("a value that is not empty or blank"));
    }
    if text.len() > MAX_BYTES {
        return Err(Malformed::expected("a value of 64 KiB at most"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        credentials::api_key::ApiKey,
        secrets::{
            id::VersionId,
            lease::{NoCalls, SecretLease},
            set::CredentialField,
        },
    };
    use std::time::Duration;

    /// A certificate that has expired by this machine's clock.
    struct Expired;

    impl Kind for Expired {
        const NAME: &'static str = "expired";

        fn read(_: &SecretValues) -> Result<Self, Malformed> {
            Err(Malformed::expected("certificates that are all valid now"))
        }
    }

    #[tokio::test]
    async fn what_the_manager_made_now_and_has_ended_shows_that_the_clock_is_wrong() {
        let id = SecretId::parse("pki/issue/web").unwrap();
        let lease = |seconds| Some(SecretLease::new(Duration::from_secs(seconds), Arc::new(NoCalls)));
        for (lease, exit) in [(lease(0), Exit::Unavailable), (lease(900), Exit::Malformed), (None, Exit::Malformed)] {
            let value = SecretValue { text: "v".into(), version: VersionId::new("v1"), created: None, lease };
            let values = SecretValues::new(value, BTreeMap::new(), None);
            assert_eq!(read::<Expired>("web", &id, &values).err().expect("a fault").exit, exit);
        }
    }

    #[test]
    fn a_credential_of_a_load_before_that_failed_is_checked_again() {
        let (spec, id) = (Credential::<ApiKey>::spec("key"), SecretId::parse("app/key").unwrap());
        let value = SecretValue { text: "v".into(), version: VersionId::new("v1"), created: None, lease: None };
        let made = read::<ApiKey>("key", &id, &SecretValues::new(value, BTreeMap::new(), None)).unwrap();
        let held = HeldCredentials::default();
        for is_right in [true, false] {
            let fetched = vec![(spec, id.clone(), FetchOutcome::Candidate(made.clone()))];
            let mut resolver = Resolver::new(fetched, &held);
            let check = |_: &ApiKey| if is_right { Ok(()) } else { Err(Malformed::expected("another host")) };
            assert_eq!(resolver.resolve_if("key", check).is_some(), is_right);
            assert_eq!(resolver.has_fault(), !is_right);
        }
    }

    #[test]
    fn a_value_of_blanks_and_byte_order_marks_is_empty() {
        for text in ["", " ", "\r\n", "\u{feff}", "\u{feff}\u{feff} \n"] {
            let value = SecretValue { text: text.into(), version: VersionId::new("v1"), created: None, lease: None };
            assert!(check_size(&value).is_err(), "{text:?}");
        }
    }
}
