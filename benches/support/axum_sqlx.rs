//! The route of the example that reads one note, as axum and sqlx alone have it.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use serde::Serialize;
use serde_json::Value;
use sqlx::{
    FromRow, PgExecutor, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use time::OffsetDateTime;
use uuid::Uuid;

/// Makes a pool with this login, with or without sqlx's ping before each use of a connection.
pub(crate) async fn pool(login: &Value, test_before_acquire: bool) -> PgPool {
    let text = |field: &str| login[field].as_str().expect("a login has it");
    let options = PgConnectOptions::new_without_pgpass()
        .host(text("host"))
        .port(login["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a login has it"))
        .database(text("dbname"))
        .username(text("username"))
        .password(text("password"))
        .ssl_mode(PgSslMode::Disable);
    let pool = PgPoolOptions::new().max_connections(10).test_before_acquire(test_before_acquire);
    pool.connect_with(options).await.expect("the database accepts the login")
}

/// Returns the route.
pub(crate) fn router(pool: PgPool) -> Router {
    async fn read(State(pool): State<PgPool>, Path(id): Path<Uuid>) -> Result<Json<Note>, StatusCode> {
        let note = find(id, &pool).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        note.map(Json).ok_or(StatusCode::NOT_FOUND)
    }
    Router::new().route("/v1/notes/{id}", get(read)).with_state(pool)
}

/// The note of the example.
#[derive(Serialize, FromRow)]
pub(crate) struct Note {
    id: Uuid,
    body: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
}

/// Runs the statement of the route.
pub(crate) async fn find(id: Uuid, database: impl PgExecutor<'_>) -> Result<Option<Note>, sqlx::Error> {
    let select = sqlx::query_as("SELECT id, body, created_at, created_by FROM notes WHERE id = $1");
    select.bind(id).fetch_optional(database).await
}
