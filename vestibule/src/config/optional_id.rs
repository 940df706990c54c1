//! The id of a secret in the configuration, or an empty text for none. For `#[serde(with = "…")]`.

use super::units;
use crate::secrets::id::SecretId;
use serde::{Deserializer, Serializer};

/// Reads an id, or nothing from an empty text.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretId>, D::Error> {
    units::text(deserializer, SecretId::EXPECTED, |text| match text {
        "" => Some(None),
        text => SecretId::parse(text).map(Some),
    })
}

/// Writes an id, or an empty text for none.
pub(super) fn serialize<S: Serializer>(id: &Option<SecretId>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.as_ref().map_or("", SecretId::as_str))
}
