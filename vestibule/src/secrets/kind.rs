//! Kinds of credential: what each accepts from the manager.

use super::version::{SecretValues, Stage};
use time::OffsetDateTime;

/// A kind of credential: what is accepted, and which stages it is made of. A new kind is a type with this trait.
pub trait Kind: Sized + Send + Sync + 'static {
    /// What `config --json` calls the kind.
    const NAME: &'static str;
    /// The stages that are fetched. Without a version at [`Stage::Current`] the credential is missing; at any other
    /// it is no fault.
    const STAGES: &'static [Stage] = &[Stage::Current];

    /// Parses and validates.
    fn read(values: &SecretValues) -> Result<Self, Malformed>;

    /// Whether `pending`, the version at [`Stage::Pending`], may be used in place of this one while the other side
    /// refuses this one: a rotation changes the other side first, and moves the label afterwards.
    fn can_fall_back_to(&self, pending: &Self) -> bool {
        let _ = pending;
        false
    }

    /// When it ends by itself, as a certificate does: for `/status`, `/metrics` and warnings in the log.
    fn expires_at(&self) -> Option<OffsetDateTime> {
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
