//! A credential as a service holds it, and its name.

use super::{
    id::{SecretId, VersionId},
    version::{Stage, Versions},
};
use std::{fmt, ops::Deref, sync::Arc};

/// The name of a credential: its field in the service's `Secrets`.
pub type Name = &'static str;

/// Names that are the framework's own; no field may have them.
pub const RESERVED: [Name; 3] = ["migrator", SERVER_TLS, CLIENT_CA];

/// The certificate and key of the listeners: on with `server.tls` or `admin.tls`.
pub(crate) const SERVER_TLS: Name = "server_tls";

/// Who may vouch for clients: on with `server.client_ca`, which is its id.
pub(crate) const CLIENT_CA: Name = "client_ca";

/// A credential that was fetched and validated. Shares its value: it is the same until the version changes.
pub struct Credential<T> {
    pub(super) value: Arc<T>,
    pub(crate) name: Name,
    pub(super) id: SecretId,
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

/// How a report calls a credential.
pub(super) fn subject(name: Name, id: &SecretId) -> String {
    format!("credential `{name}` ({id})")
}
