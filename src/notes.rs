//! Notes: create, read, list newest first, delete.

use crate::{Notes, note::Note, outbox::Event};
use axum::{
    Json,
    extract::{Path, Query, State, rejection::PathRejection},
    http::{HeaderName, StatusCode, header::LOCATION},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use std::sync::Arc;
use uuid::Uuid;
use vestibule::{ClientCertificate, Problem, TraceContext};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNote {
    body: String,
}

impl NewNote {
    fn check(&self, max_length: usize) -> Result<(), Problem> {
        let wrong = |detail| Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        let length = self.body.chars().count();
        if self.body.trim().is_empty() {
            wrong("`body` is empty: write something".to_owned())
        } else if length > max_length {
            wrong(format!("`body` has {length} characters, and {max_length} are allowed: shorten it"))
        } else if self.body.contains('\0') {
            wrong("`body` contains a NUL character: remove it".to_owned())
        } else {
            Ok(())
        }
    }
}

pub(crate) async fn create(
    State(notes): State<Arc<Notes>>,
    client: Option<ClientCertificate>,
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
    .bind(client.as_ref().map(ClientCertificate::subject))
    .fetch_one(&mut *transaction)
    .await?;
    notes.tell(Event::Created(&note), &trace, &mut transaction).await?;
    transaction.commit().await?;
    let location = [(LOCATION, format!("/v1/notes/{}", note.id))];
    Ok((StatusCode::CREATED, location, Json(note)))
}

pub(crate) async fn read(
    State(notes): State<Arc<Notes>>,
    id: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<Note>, Problem> {
    let note = sqlx::query_as("SELECT id, body, created_at, created_by FROM notes WHERE id = $1")
        .bind(note_id(id)?)
        .fetch_optional(&notes.database)
        .await?;
    note.map(Json).ok_or_else(no_such_note)
}

pub(crate) async fn delete(
    State(notes): State<Arc<Notes>>,
    id: Result<Path<Uuid>, PathRejection>,
    trace: TraceContext,
) -> Result<StatusCode, Problem> {
    let id = note_id(id)?;
    let mut transaction = notes.database.begin().await?;
    let deleted = sqlx::query("DELETE FROM notes WHERE id = $1").bind(id).execute(&mut *transaction).await?;
    if deleted.rows_affected() == 0 {
        return Err(no_such_note());
    }
    notes.tell(Event::Deleted { id }, &trace, &mut transaction).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Page {
    notes: Vec<Note>,
    /// Where the next page begins; none: this is the last.
    next_cursor: Option<String>,
}

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
    // One more than asked for tells whether there is a next page.
    let mut page: Vec<Note> =
        sqlx::query_as("SELECT id, body, created_at, created_by FROM notes WHERE id < $1 ORDER BY id DESC LIMIT $2")
            .bind(before)
            .bind(limit as i64 + 1)
            .fetch_all(&notes.database)
            .await?;
    let more = page.len() > limit;
    page.truncate(limit);
    let last = page.last().filter(|_| more);
    Ok(Json(Page { next_cursor: last.map(|note| notes.cursors.seal(note.id.as_bytes())), notes: page }))
}

impl Notes {
    /// Leaves an event for the webhook, if there is one: nobody else would ever take it away.
    async fn tell(&self, event: Event<'_>, trace: &TraceContext, change: &mut PgConnection) -> Result<(), sqlx::Error> {
        match self.webhook {
            Some(_) => event.record(trace, change).await,
            None => Ok(()),
        }
    }

    fn open_cursor(&self, cursor: &str) -> Result<Uuid, Problem> {
        self.cursors
            .open(cursor)
            .ok()
            .and_then(|id| Uuid::from_slice(&id).ok())
            .ok_or_else(|| Problem::bad_request("`cursor` is not one of ours, or has expired: start again without it"))
    }
}

fn note_id(id: Result<Path<Uuid>, PathRejection>) -> Result<Uuid, Problem> {
    id.map(|Path(id)| id)
        .map_err(|_| Problem::bad_request("the id in the path is not a UUID: use the `id` of a note, or its Location"))
}

fn no_such_note() -> Problem {
    Problem::not_found("there is no such note")
}
