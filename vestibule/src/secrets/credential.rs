//! A credential as a service holds it, and the names of credentials.

use super::{
    id::{SecretId, VersionId},
    lease::SecretLease,
    version::{Stage, Versions},
};
use std::{fmt, ops::Deref, sync::Arc};

/// The name of a credential: its field in the service's `Secrets`.
pub type Name = &'static str;

/// The names of the framework's own credentials. No field may have one of them.
pub const RESERVED: [Name; 4] = ["migrator", SERVER_TLS, CLIENT_CA, OTLP];

/// The certificate and key of the listeners. It is on if `server.tls` or `admin.tls` is on.
pub(crate) const SERVER_TLS: Name = "server_tls";

/// The authorities of client certificates. It is on if `server.client_ca`, which is its id, is set.
pub(crate) const CLIENT_CA: Name = "client_ca";

/// The key of the collector of traces. It is on if `traces.endpoint` and its id are set.
pub(crate) const OTLP: Name = "otlp";

/// The version of a credential for which the service needs no secret.
const NO_VERSION: &str = "none";

/// A credential that was fetched and validated.
///
/// It dereferences to its kind. All generations with the same versions of it share one value.
///
/// ```
/// use vestibule::{Credential, credentials::Login};
///
/// fn describe(database: &Credential<Login>) -> String {
///     let user = database.username.as_deref().unwrap_or("the configured user");
///     format!("{}: version {} of the login of {user}", database.name(), database.version())
/// }
/// ```
pub struct Credential<T> {
    pub(super) value: Arc<T>,
    pub(crate) name: Name,
    /// `None` if the service needs no secret for it.
    pub(super) id: Option<SecretId>,
    pub(crate) versions: Versions,
    pub(crate) lease: Option<Arc<SecretLease>>,
}

impl<T> Credential<T> {
    /// Makes the credential of a service that needs no secret for it.
    pub(super) fn without_secret(name: Name, value: T) -> Self {
        let versions = Versions::from([(Stage::Current, VersionId::new(NO_VERSION))]);
        Self { value: Arc::new(value), name, id: None, versions, lease: None }
    }

    /// Returns `true` if the manager has a secret for it.
    pub(crate) fn has_secret(&self) -> bool {
        self.id.is_some()
    }

    /// Returns its field in the service's `Secrets`.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Returns the version in use. During a rotation it may be the manager's pending version. It is `none` for a database
    /// with `auth = "iam"`, which has no secret.
    pub fn version(&self) -> &VersionId {
        // The key `Current` always has the version in use, even if the manager has it at another stage.
        &self.versions[&Stage::Current]
    }

    /// Returns its name and id, as reports write them.
    pub(crate) fn subject(&self) -> String {
        match &self.id {
            Some(id) => subject(self.name, id),
            None => format!("credential `{}` (IAM)", self.name),
        }
    }

    /// Returns the value without a copy, for a resource that uses it again later. It is wiped when its last holder drops
    /// it.
    pub fn shared(&self) -> Arc<T> {
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

/// Returns a credential's name and id, as reports write them.
pub(super) fn subject(name: Name, id: &SecretId) -> String {
    format!("credential `{name}` ({id})")
}
