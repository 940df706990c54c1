//! The interface to a secrets manager.

use super::{
    id::{SecretId, VersionId},
    version::{SecretValue, Stage, Versions},
};
use crate::exit::Exit;
use futures_util::future::BoxFuture;
use std::borrow::Cow;
use time::OffsetDateTime;

/// A secrets manager. Each call is one attempt. The framework retries, and keeps the deadline.
pub trait Source: Send + Sync + 'static {
    /// Fetches the version of `id` at `stage`. `held` is the version that is already held: if that is still the
    /// one, the value need not be read.
    ///
    /// # Errors
    /// A [`SourceError`] if this attempt failed. [`SourceError::is_transient`] tells if another one may succeed.
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>>;

    /// Returns the version of `id` at each stage. Reads no value, and needs no permission to read one. An empty answer
    /// means that the secret has no version, or does not exist.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>>;

    /// Returns `true` if the manager makes a credential at each read of `id`. Such a credential has a
    /// [lease](SecretValue::lease). It is fetched only if none is held that can be used, and after all others: a start that
    /// fails because of another one shall leave none behind. The default is `false`.
    fn is_made_at_each_read(&self, id: &SecretId) -> bool {
        let _ = id;
        false
    }

    /// Gives back what the manager gave to this process, such as a token. A process calls it once, when it ends, however it
    /// ends, and waits 2 s at most. The default does nothing.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Returns the time at which the token ends with which this process asks now, for the status. What was made with it may
    /// end then too. The default is `None`: there is no token, or it does not end.
    fn token_end(&self) -> Option<OffsetDateTime> {
        None
    }

    /// Returns `true` if the last log-in of this process at the manager failed and its next read needs one, and `false`
    /// otherwise. The default is `None`: this process does not log in.
    fn login_failed(&self) -> Option<bool> {
        None
    }

    /// Returns the manager's own word for a stage, for messages. The default is the name of the stage in small letters.
    fn stage_label(&self, stage: Stage) -> &'static str {
        match stage {
            Stage::Current => "current",
            Stage::Pending => "pending",
            Stage::Previous => "previous",
        }
    }

    /// Returns what somebody can do about an error of an operation on `id`, in the manager's own words. The default fits
    /// any manager.
    fn remedy(&self, id: &SecretId, error: &SourceError, operation: Operation) -> Cow<'static, str> {
        let _ = id;
        match error {
            SourceError::Denied(_) if operation == Operation::RenewLease => {
                "allow this process to renew the lease of the secret".into()
            }
            SourceError::Missing(_) => "create the secret, or correct its id".into(),
            SourceError::Denied(_) => "allow this process to read the secret; check the id too".into(),
            SourceError::NoIdentity(_) => "give the process an identity".into(),
            SourceError::ClockWrong(_) => "set the clock of this machine (NTP)".into(),
            SourceError::Malformed(_) => "put a text value at the manager, as a new version".into(),
            SourceError::NotConnected { remedy: Some(remedy), .. } => (*remedy).into(),
            SourceError::Unavailable(_) | SourceError::NotConnected { .. } | SourceError::Unanswered(_) => {
                "check the network path to the manager and its health".into()
            }
        }
    }
}

/// An operation at a secrets manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Source::fetch`].
    ReadValue,
    /// [`Source::versions`].
    ReadVersions,
    /// [`LeaseCalls::renew`](super::lease::LeaseCalls::renew) of a value of this id.
    RenewLease,
}

/// The answer of a secrets manager.
pub enum Fetched {
    /// The version that is held is still the one at this stage.
    Same,
    /// Another version.
    New(SecretValue),
    /// The secret has no version at this stage, or does not exist.
    Absent,
}

/// A secret that could not be fetched. The messages are ours: they name causes, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The manager does not let us read the secret, or the secret does not exist and the manager does not say so.
    #[error("the manager denies access: {0}")]
    Denied(String),
    /// There is no identity to ask the manager with.
    #[error("there is no identity to ask the manager with: {0}")]
    NoIdentity(String),
    /// The manager does not accept a request with the time of this machine's clock.
    #[error("this machine's clock is wrong: {0}")]
    ClockWrong(String),
    /// The manager has no secret of this id, or its deletion is scheduled.
    #[error("the manager does not have it: {0}")]
    Missing(String),
    /// The secret exists and cannot be used: it is binary, or has no value.
    #[error("{0}")]
    Malformed(String),
    /// The manager could not answer this time. Another attempt may succeed.
    #[error("the manager is unavailable: {0}")]
    Unavailable(String),
    /// There was no connection to the manager, or to the platform's identity service. Another attempt may succeed.
    #[error("the manager is unavailable: {problem}")]
    NotConnected {
        /// The place, and the cause.
        problem: String,
        /// A remedy for this cause, if there is one. [`Source::remedy`] has a default.
        remedy: Option<&'static str>,
    },
    /// The manager did not answer in time. Another attempt may succeed.
    #[error("the manager did not answer: {0}")]
    Unanswered(String),
}

impl SourceError {
    /// Returns `true` if another attempt may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::NotConnected { .. } | Self::Unanswered(_))
    }

    /// Returns `true` if the manager knows this process and says no, or does not know it. That may pass by itself:
    /// identities and policies propagate, and a clock is set.
    pub(crate) fn is_denial(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::NoIdentity(_) | Self::ClockWrong(_))
    }

    /// Returns the code with which a start ends because of this error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Denied(_) | Self::NoIdentity(_) | Self::ClockWrong(_) => Exit::Denied,
            Self::Missing(_) => Exit::Missing,
            Self::Malformed(_) => Exit::Malformed,
            Self::Unavailable(_) | Self::NotConnected { .. } => Exit::Unavailable,
            Self::Unanswered(_) => Exit::Deadline,
        }
    }
}
