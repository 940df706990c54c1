//! The change that another load needs to succeed.

use crate::exit::Exit;

/// The change that another load needs to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryClass {
    /// The manager and the other side have different versions: a rotation ends this by itself. Or a lease is due.
    Rejected,
    /// The other side rejects versions in service, and the manager has no other ones yet. Nothing else is missing.
    NoSuccessor,
    /// The manager or the database does not answer, or denies access: identities and policies propagate.
    Unavailable,
    /// A file of the configuration is not there, or cannot be read.
    Unreadable,
    /// A file of the configuration is not TOML. It may be half written.
    HalfWritten,
    /// Somebody must mend something.
    Permanent,
}

impl RetryClass {
    pub(super) fn of(exit: Exit) -> Self {
        match exit {
            Exit::Unavailable | Exit::Deadline | Exit::Denied => Self::Unavailable,
            _ => Self::Permanent,
        }
    }
}
