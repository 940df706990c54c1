//! The text of a value, as people and tools write it into a secrets manager.

use crate::secrets::{kind::Malformed, shape};

/// The text of a value: JSON, or the bare secret.
///
/// Whatever may be JSON is never taken for a bare secret, because the other side would get it as a password. A byte order
/// mark at the start is left out.
///
/// ```
/// use vestibule::{credentials::ValueText, secrets::Malformed};
///
/// fn key<'a>(value: &'a str) -> Result<&'a str, Malformed> {
///     match ValueText::of(value, "a bare key")? {
///         ValueText::Bare(key) => Ok(key.trim()),
///         ValueText::Json(_) => Err(Malformed::expected("a bare key")),
///     }
/// }
///
/// assert_eq!(key("\u{feff}abc\n"), Ok("abc"));
/// assert!(key("{\"key\": \"abc\"}").is_err());
/// ```
///
/// It cannot be printed:
///
/// ```compile_fail
/// fn print(text: vestibule::credentials::ValueText<'_>) {
///     println!("{text:?}");
/// }
/// ```
#[derive(Clone, Copy)]
pub enum ValueText<'a> {
    /// Text that starts like a JSON object. It is one, or the value is malformed.
    Json(&'a str),
    /// Any other text, with its blanks.
    Bare(&'a str),
}

impl<'a> ValueText<'a> {
    /// Tells which of both the value is.
    ///
    /// # Errors
    /// [`Malformed`] with `expected`, if it is JSON and no object (such as a text in quotes, which was encoded once too
    /// often), or JSON in base64.
    pub fn of(value: &'a str, expected: &'static str) -> Result<Self, Malformed> {
        Self::unless_in_base64(value, expected, |_| true)
    }

    /// Does the same, but takes JSON in base64 for a bare secret unless `is_refused` says otherwise of the JSON: some issuers
    /// make such keys.
    pub(super) fn unless_in_base64(
        value: &'a str,
        expected: &'static str,
        is_refused: impl Fn(&str) -> bool,
    ) -> Result<Self, Malformed> {
        let text = shape::without_byte_order_mark(value);
        if shape::starts_like_an_object(text) {
            return Ok(Self::Json(text));
        }
        if shape::is_json_in_disguise(text, is_refused) {
            return Err(Malformed::expected(expected));
        }
        Ok(Self::Bare(text))
    }
}
