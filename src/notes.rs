//! The routes of notes: create, read, delete, and list newest first.

use crate::Notes;
use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderName, StatusCode, header::LOCATION},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vestibule::{Principal, Problem, TraceContext};

/// A note. Its id is a UUIDv7, so the order of ids is the order of creation.
#[derive(Serialize, sqlx::FromRow, ToSchema)]
pub(crate) struct Note {
    id: Uuid,
    body: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// The subject of the client's token or certificate, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
}

/// A note to create. Its body is not blank, has no NUL character, and is not longer than `service.max_length`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNote {
    #[schema(min_length = 1, example = "hello")]
    body: String,
}

impl NewNote {
    fn check(&self, max_length: usize) -> Result<(), Problem> {
        let length = self.body.chars().count();
        let detail = if self.body.trim().is_empty() {
            "`body` is empty: write something".to_owned()
        } else if length > max_length {
            format!("`body` has {length} characters, and {max_length} are allowed: shorten it")
        } else if self.body.contains('\0') {
            "`body` contains a NUL character: remove it".to_owned()
        } else {
            return Ok(());
        };
        Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
    }
}

/// Creates a note.
#[utoipa::path(post, path = "/v1/notes", responses((status = CREATED, body = Note, headers(("location" = String)))))]
pub(crate) async fn create(
    State(notes): State<Arc<Notes>>,
    principal: Option<Principal>,
    trace: TraceContext,
    Json(new): Json<NewNote>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Note>), Problem> {
    new.check(notes.max_length)?;
    let mut transaction = notes.database.begin().await?;
    let note: Note = sqlx::query_as(
        "INSERT INTO notes (id, body, created_by) VALUES ($1, $2, $3) RETURNING id, body, created_at, created_by",
    )
    .bind(Uuid::now_v7())
    .bind(new.body)
    .bind(principal.as_ref().map(Principal::subject))
    .fetch_one(&mut *transaction)
    .await?;
    if let Some(webhook) = &notes.webhook {
        webhook.record("note.created", note.id, &note, &trace, &mut transaction).await?;
    }
    transaction.commit().await?;
    notes.deliveries.wake();
    Ok((StatusCode::CREATED, [(LOCATION, format!("/v1/notes/{}", note.id))], Json(note)))
}

/// Reads a note.
#[utoipa::path(get, path = "/v1/notes/{id}", responses((status = OK, body = Note)))]
pub(crate) async fn read(State(notes): State<Arc<Notes>>, Path(id): Path<Uuid>) -> Result<Json<Note>, Problem> {
    let note = sqlx::query_as("SELECT id, body, created_at, created_by FROM notes WHERE id = $1")
        .bind(id)
        .fetch_optional(&notes.database)
        .await?;
    note.map(Json).ok_or_else(no_such_note)
}

/// Deletes a note.
#[utoipa::path(delete, path = "/v1/notes/{id}", responses((status = NO_CONTENT)))]
pub(crate) async fn delete(
    State(notes): State<Arc<Notes>>,
    Path(id): Path<Uuid>,
    trace: TraceContext,
) -> Result<StatusCode, Problem> {
    let mut transaction = notes.database.begin().await?;
    let deleted = sqlx::query("DELETE FROM notes WHERE id = $1").bind(id).execute(&mut *transaction).await?;
    if deleted.rows_affected() == 0 {
        return Err(no_such_note());
    }
    if let Some(webhook) = &notes.webhook {
        webhook.record("note.deleted", id, serde_json::json!({ "id": id }), &trace, &mut transaction).await?;
    }
    transaction.commit().await?;
    notes.deliveries.wake();
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// The largest number of notes in the page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<usize>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of the list.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page {
    notes: Vec<Note>,
    /// The cursor of the next page. It is null on the last page.
    next_cursor: Option<String>,
}

/// Lists the notes, newest first.
#[utoipa::path(get, path = "/v1/notes", params(ListQuery), responses((status = OK, body = Page)))]
pub(crate) async fn list(
    State(notes): State<Arc<Notes>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page>, Problem> {
    let limit = query.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        return Err(Problem::bad_request("`limit` must be from 1 to 100"));
    }
    let before = match &query.cursor {
        Some(cursor) => notes.open_cursor(cursor)?,
        None => Uuid::max(),
    };
    // One note more than the limit shows that there is a next page.
    let mut page: Vec<Note> =
        sqlx::query_as("SELECT id, body, created_at, created_by FROM notes WHERE id < $1 ORDER BY id DESC LIMIT $2")
            .bind(before)
            .bind(limit as i64 + 1)
            .fetch_all(&notes.database)
            .await?;
    let has_next = page.len() > limit;
    page.truncate(limit);
    tracing::debug!(notes = page.len(), has_next, "listed notes");
    let next_cursor = match page.last() {
        Some(last) if has_next => Some(notes.cursors.seal(last.id.as_bytes())),
        _ => None,
    };
    Ok(Json(Page { notes: page, next_cursor }))
}

impl Notes {
    fn open_cursor(&self, cursor: &str) -> Result<Uuid, Problem> {
        let foreign = || Problem::bad_request("`cursor` is not one of ours, or has expired: start again without it");
        let id = self.cursors.open(cursor).map_err(|_| foreign())?;
        Uuid::from_slice(&id).map_err(|_| foreign())
    }
}

fn no_such_note() -> Problem {
    Problem::not_found("there is no such note")
}
