//! The greeting: copy this route, then replace it.

use crate::Hello;
use axum::{Json, extract::State};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use vestibule::Problem;

/// A greeting.
#[derive(Serialize, ToSchema)]
pub(crate) struct Greeting {
    greeting: String,
}

/// Says hello.
#[utoipa::path(get, path = "/v1/hello", responses((status = OK, body = Greeting), (status = NOT_FOUND)))]
pub(crate) async fn greet(State(hello): State<Arc<Hello>>) -> Result<Json<Greeting>, Problem> {
    let greeting = sqlx::query_scalar("SELECT greeting FROM greetings WHERE language = $1")
        .bind(&hello.language)
        .fetch_optional(&hello.database)
        .await?
        .ok_or_else(|| Problem::not_found("there is no greeting in the language of this service"))?;
    Ok(Json(Greeting { greeting }))
}
