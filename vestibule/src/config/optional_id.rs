//! The id of a secret in the configuration, or an empty text for none: `#[serde(with = "optional_id")]`.

use super::units;
use crate::secrets::id::SecretId;
use serde::{Deserializer, Serializer};

/// Reads an id. An empty text is `None`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretId>, D::Error> {
    units::text(deserializer, SecretId::EXPECTED, |text| match text {
        "" => Some(None),
        text => SecretId::parse(text).map(Some),
    })
}

/// Writes an id. `None` is an empty text.
pub(super) fn serialize<S: Serializer>(id: &Option<SecretId>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.as_ref().map_or("", SecretId::as_str))
}
