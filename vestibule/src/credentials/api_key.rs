//! A key that another service gave us.

use super::{ValueText, json, not_blank, unescaped};
use crate::secrets::{
    kind::{Kind, Malformed},
    secret_parts::SecretParts,
    version::SecretValues,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// An API key. The manager has it as bare text, or as `{"api_key": "…"}`. A key may itself be base64 of other JSON, as those of
/// Grafana are.
///
/// A service gives it to [`Build::client`](crate::Build::client). A client of its own kind can read it:
///
/// ```
/// use vestibule::{credentials::ApiKey, secrets::ExposeSecret};
///
/// fn authorization(key: &ApiKey) -> String {
///     format!("Bearer {}", key.expose_secret())
/// }
/// ```
#[derive(Deserialize)]
pub struct ApiKey {
    #[serde(rename = "api_key", deserialize_with = "unescaped")]
    key: SecretString,
}

impl ApiKey {
    pub(super) const EXPECTED: &str =
        "an API key without spaces or control characters, bare or as {\"api_key\": \"…\"}";
}

impl ExposeSecret<str> for ApiKey {
    fn expose_secret(&self) -> &str {
        self.key.expose_secret()
    }
}

impl Kind for ApiKey {
    const NAME: &'static str = "api_key";

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        let text = values.current().text.expose_secret();
        let of_json = |text: &str| json::<Self>(text, Self::EXPECTED);
        let key = match ValueText::unless_in_base64(text, Self::EXPECTED, |text| of_json(text).is_ok())? {
            ValueText::Json(text) => of_json(text)?.key,
            // Files and editors put a newline at the end, which no header can carry.
            ValueText::Bare(text) => text.trim().into(),
        };
        let key = not_blank(key, Self::EXPECTED)?;
        // A header can carry these characters, and the space: RFC 9110, section 5.5.
        if !key.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Malformed::expected(Self::EXPECTED));
        }
        Ok(Self { key })
    }

    fn secret_parts(&self, _: &SecretValues, parts: &mut SecretParts) {
        parts.add(self.key.expose_secret());
    }
}
