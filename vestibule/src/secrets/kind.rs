//! The trait of all kinds of credential.

use super::{
    expiry::Expiry,
    secret_parts::SecretParts,
    version::{SecretValues, Stage},
};
use secrecy::ExposeSecret;

/// A kind of credential: the values that it accepts, and the stages that it is made of.
///
/// A new kind is a type with this trait:
///
/// ```
/// use vestibule::secrets::{ExposeSecret, Kind, Malformed, SecretString, SecretValues};
///
/// /// A code of six digits.
/// struct Pin(SecretString);
///
/// impl Kind for Pin {
///     const NAME: &'static str = "pin";
///
///     fn read(values: &SecretValues) -> Result<Self, Malformed> {
///         let text = values.current().text.expose_secret();
///         if text.len() != 6 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
///             return Err(Malformed::expected("six digits"));
///         }
///         Ok(Self(text.into()))
///     }
/// }
/// ```
pub trait Kind: Sized + Send + Sync + 'static {
    /// The name of the kind in `config --json`.
    const NAME: &'static str;
    /// The stages that are fetched. The credential is missing if there is no version at [`Stage::Current`]. It is no
    /// fault if there is none at another stage.
    const STAGES: &'static [Stage] = &[Stage::Current];

    /// Parses and validates the versions of a secret.
    ///
    /// # Errors
    /// [`Malformed`] if the kind does not accept the version in use.
    fn read(values: &SecretValues) -> Result<Self, Malformed>;

    /// Returns `true` if `pending`, the version at [`Stage::Pending`], may be used in place of this one while the other
    /// side rejects this one. A rotation changes the other side first, and moves the manager's label afterwards. The
    /// default is `false`.
    fn can_fall_back_to(&self, pending: &Self) -> bool {
        let _ = pending;
        false
    }

    /// Returns `true` if this uses the version at `stage`, which is another one than the current one. A kind may take a
    /// malformed version there as absent. Then neither `/status` nor `audit` counts it as one in use, and the log names it.
    /// The default is `true`.
    fn uses(&self, stage: Stage) -> bool {
        let _ = stage;
        true
    }

    /// Returns the credential of a service that needs no secret for it, if there is such a thing. The framework uses it in
    /// place of a value of the manager, for a database with `auth = "iam"`. The default is `None`.
    #[doc(hidden)]
    fn without_secret() -> Option<Self> {
        None
    }

    /// Returns when the credential expires by itself, as a certificate does. `/status`, `/metrics` and warnings in the log
    /// show it, and shortly before the end its replacement waits for no other credential. The default is `None`.
    fn expiry(&self) -> Option<Expiry> {
        None
    }

    /// Adds the parts that are secret, of `values`, which this was read from. The log withholds each line that contains one
    /// of them, while this is held. The default adds each value as a whole, which suits a bare secret. A kind that is
    /// written as JSON adds the fields that are secret, and leaves the others out: a user name may be in the log.
    ///
    /// It is a net for mistakes. Whatever holds a secret has no `Debug` or `Display` that shows it, all the same.
    fn secret_parts(&self, values: &SecretValues, parts: &mut SecretParts) {
        for value in values.all() {
            parts.add(value.text.expose_secret().trim());
        }
    }
}

/// A value that cannot be used as a credential. It says what was expected, never what was there.
///
/// A parser's own message often quotes its input, so this error cannot carry one.
///
/// ```
/// use vestibule::secrets::Malformed;
///
/// assert_eq!(Malformed::expected("six digits").to_string(), "expected six digits");
/// ```
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct Malformed {
    expected: &'static str,
    is_too_early: bool,
}

impl Malformed {
    /// Makes the error for a value that is not `expected`.
    pub const fn expected(expected: &'static str) -> Self {
        Self { expected, is_too_early: false }
    }

    /// Makes the error for a value that is right, but not valid yet by this machine's clock. The clock may be wrong, and set
    /// soon: a start tries again until `secrets.deadline`, and a failed reload is tried again. The exit code is 69.
    pub const fn too_early(expected: &'static str) -> Self {
        Self { expected, is_too_early: true }
    }

    pub(crate) fn is_too_early(&self) -> bool {
        self.is_too_early
    }
}
