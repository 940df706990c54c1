//! What a secrets manager must be able to do.

use super::{SecretId, Stage, Value, VersionId, Versions};
use futures_util::future::BoxFuture;

/// A secrets manager. One attempt a call: retrying and deadlines are the road's.
pub trait Source: Send + Sync + 'static {
    /// Fetches the version of `id` at `stage`. `held` is the version already held: a manager that mints a credential
    /// at each reading keeps it.
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>>;

    /// Which version of `id` is at which stage now. Reads no value, and needs no permission to. Empty: the secret has no
    /// version, or does not exist.
    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>>;
}

/// The answer of a secrets manager.
pub enum Fetched {
    /// The version held is still the one at this stage.
    Same,
    /// Another version.
    New(Value),
    /// The secret has no version at this stage, or does not exist.
    Absent,
}

/// Why a secret could not be fetched. The messages are ours: they name causes, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The manager does not let us read the secret; or the secret does not exist and it will not say so.
    #[error("the manager denies access: {0}")]
    Denied(String),
    /// There is nobody to ask as.
    #[error("there is no identity to ask the manager with: {0}")]
    NoIdentity(String),
    /// The manager has no secret of this id, or has it marked for deletion.
    #[error("the manager does not have it: {0}")]
    Missing(String),
    /// The secret is there and cannot be used: it is binary, or has no value.
    #[error("{0}")]
    Malformed(String),
    /// The manager could not answer this time; a later attempt may succeed.
    #[error("the manager is unavailable: {0}")]
    Unavailable(String),
    /// The manager did not answer in time; a later attempt may succeed.
    #[error("the manager did not answer: {0}")]
    Unanswered(String),
}

impl SourceError {
    /// Whether another attempt may succeed.
    pub fn transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unanswered(_))
    }
}
