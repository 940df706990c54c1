//! A note, as clients and the webhook see it.

use serde::Serialize;
use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

/// A note. Its id is a UUIDv7, so the order of ids is the order of creation.
#[derive(Serialize, FromRow)]
pub(crate) struct Note {
    pub(crate) id: Uuid,
    body: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// The subject of the client's certificate, if clients show one.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
}
