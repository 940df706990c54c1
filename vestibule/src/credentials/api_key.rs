//! A key that another service gave us.

use super::{json, looks_like_json, not_blank, unescaped};
use crate::secrets::{
    kind::{Kind, Malformed},
    version::SecretValues,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// An API key: the bare text, or `{"api_key": "…"}`.
#[derive(Deserialize)]
pub struct ApiKey {
    #[serde(rename = "api_key", deserialize_with = "unescaped")]
    key: SecretString,
}

impl ApiKey {
    const EXPECTED: &str = "an API key without spaces or control characters, bare or as {\"api_key\": \"…\"}";
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
        let key = if looks_like_json(text) {
            json::<Self>(text, Self::EXPECTED)?.key
        } else {
            // A newline at the end comes from a file or an editor, and no header can carry it.
            text.trim().into()
        };
        let key = not_blank(key, Self::EXPECTED)?;
        // What a header can carry: RFC 9110, section 5.5, less the space.
        if !key.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Malformed::expected(Self::EXPECTED));
        }
        Ok(Self { key })
    }
}
