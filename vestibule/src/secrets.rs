//! Credentials, from the manager's bytes to a type that a service can trust.
//!
//! ```text
//! Source ─► Value ─► Kind::read ─► Credential<T>, in the service's SecretSet
//! ```
//!
//! A value lives in [`Value`] and in the types that a [`Kind`] reads from it, and nowhere else: none of them has a
//! `Debug`, `Display`, `Serialize` or `Clone` that shows it.

pub mod aws;
pub mod source;

mod all;
mod fetch;
mod replicas;
mod ring;

pub use ring::{Keyring, Ring};
pub use secrecy::{ExposeSecret, SecretString};
pub use source::{Fetched, Source, SourceError};

pub(crate) use all::All;
pub(crate) use fetch::{Manager, Seen, fetch};
pub(crate) use replicas::Replicas;
pub(crate) use ring::{Held, Set};

use serde::{Deserialize, Deserializer, Serialize};
use std::{any::Any, collections::BTreeMap, fmt, ops::Deref, sync::Arc};
use time::OffsetDateTime;

/// The name of a credential: its field in the service's `Secrets`.
pub type Name = &'static str;

/// Names that are the framework's own; no field may have them.
pub const RESERVED: [Name; 3] = ["migrator", SERVER_TLS, CLIENT_CA];

/// The certificate and key of the listeners: on with `server.tls` or `admin.tls`.
pub(crate) const SERVER_TLS: Name = "server_tls";

/// Who may vouch for clients: on with `server.client_ca`, which is its id.
pub(crate) const CLIENT_CA: Name = "client_ca";

/// The most bytes that a secret may have; AWS's own limit (`GetSecretValue`, *SecretString*).
pub const MAX_BYTES: usize = 64 * 1024;

/// The id of a secret at the manager: a name, or an ARN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SecretId(String);

impl SecretId {
    pub(crate) const EXPECTED: &str = "the id of a secret: 1 to 512 of letters, digits and /_+=.@-, or an ARN; \
        `{prefix}/` at its very start stands for secrets.prefix";

    /// `None` if the manager could not know such an id.
    pub fn parse(text: &str) -> Option<Self> {
        let arn = text.starts_with("arn:");
        let allowed = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c) || (arn && c == ':');
        let fits = (1..=512).contains(&text.len()) && text.chars().all(allowed) && !text.split('/').any(str::is_empty);
        fits.then(|| Self(text.to_owned()))
    }

    /// The id as the manager knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::config::units::text(deserializer, Self::EXPECTED, Self::parse)
    }
}

/// Which version of a secret: the manager's own id for it. No secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct VersionId(String);

impl VersionId {
    const EXPECTED: &str = "the id of a version: 1 to 128 visible ASCII characters";

    /// The id as the manager gave it.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// `None` if no manager could give such an id.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self::new(text))
    }

    /// The id as the manager gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VersionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::config::units::text(deserializer, Self::EXPECTED, Self::parse)
    }
}

/// Where a version stands in its rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// In use.
    Current,
    /// Made by a rotation that has not ended.
    Pending,
    /// In use before the last rotation.
    Previous,
}

impl Stage {
    pub(crate) const ALL: [Self; 3] = [Self::Current, Self::Pending, Self::Previous];

    /// AWS's label for the stage.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Current => "AWSCURRENT",
            Stage::Pending => "AWSPENDING",
            Stage::Previous => "AWSPREVIOUS",
        }
    }
}

/// One version of a secret, as the manager gave it.
pub struct Value {
    /// The bytes.
    pub text: SecretString,
    /// Which version they are.
    pub version: VersionId,
    /// When the manager got it, if it says so. A version older than the one held counts when a second read has it too.
    pub created: Option<OffsetDateTime>,
}

impl Value {
    fn older_than(&self, since: Option<OffsetDateTime>) -> bool {
        self.created < since && self.created.is_some()
    }
}

/// The versions of one secret that its kind asked for. [`Stage::Current`] is among them.
pub struct Values {
    current: Value,
    others: BTreeMap<Stage, Value>,
    took_over: Option<OffsetDateTime>,
}

impl Values {
    pub(crate) fn new(current: Value, others: BTreeMap<Stage, Value>, took_over: Option<OffsetDateTime>) -> Self {
        Self { current, others, took_over }
    }

    /// The version in use.
    pub fn current(&self) -> &Value {
        &self.current
    }

    /// The version at another stage, where there is one.
    pub fn at(&self, stage: Stage) -> Option<&Value> {
        match stage {
            Stage::Current => Some(&self.current),
            stage => self.others.get(&stage),
        }
    }

    /// When this process first saw the current version in the place of another one. `None`: it started with this one.
    pub fn took_over(&self) -> Option<OffsetDateTime> {
        self.took_over
    }

    fn versions(&self) -> Versions {
        let others = self.others.iter().map(|(stage, value)| (*stage, value));
        std::iter::once((Stage::Current, &self.current))
            .chain(others)
            .map(|(stage, value)| (stage, value.version.clone()))
            .collect()
    }
}

/// Which version is held at which stage.
pub type Versions = BTreeMap<Stage, VersionId>;

/// A kind of credential: what is accepted, and which stages it is made of. A new kind is a type with this trait.
pub trait Kind: Sized + Send + Sync + 'static {
    /// What `config --json` calls the kind.
    const NAME: &'static str;
    /// The stages that are fetched. Without a version at [`Stage::Current`] the credential is missing; at any other
    /// it is no fault.
    const STAGES: &'static [Stage] = &[Stage::Current];

    /// Parses and validates.
    fn read(values: &Values) -> Result<Self, Malformed>;

    /// Whether `pending`, the version at [`Stage::Pending`], may be used in place of this one while the other side
    /// refuses this one: a rotation changes the other side first, and moves the label afterwards.
    fn yields_to(&self, pending: &Self) -> bool {
        let _ = pending;
        false
    }

    /// When it ends by itself, as a certificate does: for `/status`, `/metrics` and warnings in the log.
    fn ends(&self) -> Option<OffsetDateTime> {
        None
    }
}

/// Why a credential cannot be used: what was expected, never what was there. A parser's own message often quotes its
/// input, so there is no way to pass one on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct Malformed {
    expected: &'static str,
}

impl Malformed {
    /// What would have been accepted.
    pub const fn expected(expected: &'static str) -> Self {
        Self { expected }
    }
}

/// A credential that was fetched and validated. Shares its value: it is the same until the version changes.
pub struct Credential<T> {
    value: Arc<T>,
    pub(crate) name: Name,
    id: SecretId,
    pub(crate) versions: Versions,
}

impl<T> Credential<T> {
    /// The field in the service's `Secrets`.
    pub fn name(&self) -> Name {
        self.name
    }

    /// The version in use, at whichever stage.
    pub fn version(&self) -> &VersionId {
        &self.versions[&Stage::Current]
    }

    /// How a report calls it.
    pub(crate) fn subject(&self) -> String {
        subject(self.name, &self.id)
    }

    pub(crate) fn shared(&self) -> Arc<T> {
        self.value.clone()
    }
}

impl<T> Deref for Credential<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> fmt::Debug for Credential<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("name", &self.name).field("versions", &self.versions).finish_non_exhaustive()
    }
}

/// A credential that a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// The field in the service's `Secrets`.
    pub name: Name,
    /// [`Kind::NAME`].
    pub kind: &'static str,
    /// [`Kind::STAGES`].
    pub stages: &'static [Stage],
    /// Off unless its id is configured.
    pub optional: bool,
}

/// The credentials of a service: a struct with `#[derive(SecretSet)]`, one field each.
pub trait SecretSet: Sized + Send + Sync + 'static {
    /// What is to be fetched.
    fn wanted() -> Vec<Wanted>;
    /// Takes every field off the ring; faults stay on it.
    fn take(ring: &mut Ring<'_>) -> Option<Self>;
}

/// What a field of a [`SecretSet`] may be: `Credential<K>`, or `Option<Credential<K>>` where it is on only when its id
/// is configured.
pub trait Slot: Sized {
    /// What is to be fetched for the field `name`.
    fn wanted(name: Name) -> Wanted;
    /// Takes the field's credential off the ring. `None`: the ring has a fault for it.
    fn take(name: Name, ring: &mut Ring<'_>) -> Option<Self>;
}

impl<K: Kind> Slot for Credential<K> {
    fn wanted(name: Name) -> Wanted {
        Wanted { name, kind: K::NAME, stages: K::STAGES, optional: false }
    }

    fn take(name: Name, ring: &mut Ring<'_>) -> Option<Self> {
        ring.take::<K>(name)
    }
}

impl<K: Kind> Slot for Option<Credential<K>> {
    fn wanted(name: Name) -> Wanted {
        Wanted { optional: true, ..Credential::<K>::wanted(name) }
    }

    fn take(name: Name, ring: &mut Ring<'_>) -> Option<Self> {
        if ring.asked_for(name) { ring.take::<K>(name).map(Some) } else { Some(None) }
    }
}

/// How a report calls a credential.
fn subject(name: Name, id: &SecretId) -> String {
    format!("credential `{name}` ({id})")
}

/// The text of a value that is not empty, blank, or too long. Managers accept all three.
fn usable(value: &Value) -> Result<(), Malformed> {
    let text = value.text.expose_secret();
    if text.trim().is_empty() {
        return Err(Malformed::expected("a value that is not empty or blank"));
    }
    if text.len() > MAX_BYTES {
        return Err(Malformed::expected("a value of 64 KiB at most"));
    }
    Ok(())
}

/// What is held of one credential, whatever its kind.
type Erased = Arc<dyn Any + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_no_manager_could_know_are_refused() {
        for id in ["svc/database", "a", "arn:aws:secretsmanager:eu-west-1:1:secret:n-AbCdEf"] {
            assert!(SecretId::parse(id).is_some(), "{id}");
        }
        for id in ["", " ", "svc database", "/svc", "svc/", "a//b", "a:b", "{prefix}/a", "svç"] {
            assert!(SecretId::parse(id).is_none(), "{id}");
        }
    }
}
