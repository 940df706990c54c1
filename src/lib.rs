//! Takes notes: the example service. Copy what you need, then delete it.
//!
//! ```text
//! secrets.rs ─► Notes::build ─► routes ─► notes.rs
//! ```
//!
//! - To add a credential, add a field to [`Secrets`]; its id is `notes/<field>` unless `[secrets.ids]` says otherwise.
//! - To add a setting, add a field to [`Settings`]: it is a key of `[service]` in `config/`.
//! - To add a route, add it to [`Notes::routes`](vestibule::Service::routes).
//! - To change the schema, add a file to `migrations/`.

mod notes;
mod secrets;

pub use secrets::Secrets;

use axum::{
    Router,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use vestibule::{App, Build, BuildError, Database, Service, Signer};

/// What a request works with: everything that is built from credentials or settings.
pub struct Notes {
    database: Database,
    cursors: Signer,
    max_length: usize,
}

/// How long the cursor of a list leads on. Rotate `signing` no faster.
const CURSOR_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The `[service]` section of the configuration.
#[derive(Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The most characters that a note may have.
    pub max_length: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_length: 4096 }
    }
}

impl Service for Notes {
    const APP: App = vestibule::app!();
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self {
            database: cx.database(&cx.secrets.database).await?,
            cursors: cx.signer(&cx.secrets.signing, "cursor", CURSOR_LIFETIME),
            max_length: cx.settings.max_length,
        })
    }

    fn routes() -> Router<Arc<Self>> {
        Router::new()
            .route("/v1/notes", post(notes::create).get(notes::list))
            .route("/v1/notes/{id}", get(notes::read).delete(notes::delete))
    }
}
