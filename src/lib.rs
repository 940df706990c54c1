//! Takes notes: the example service. Copy what you need, then delete it.
//!
//! ```text
//! secrets.rs ─► Notes::build ─► routes ─► notes.rs ─► outbox.rs ─► the webhook
//! ```
//!
//! - To add a credential, add a field to [`Secrets`]; its id is `<prefix>/<field>` unless `[secrets.ids]` says otherwise;
//!   the prefix is the package's name.
//! - To add a setting, add a field to [`Settings`]: it is a key of `[service]` in `config/`.
//! - To add a route, add it to [`Notes::routes`](vestibule::Application::routes).
//! - To work beside requests, see `outbox.rs`; without a webhook to tell, delete it.
//! - To change the schema, add a file to `migrations/`.

mod note;
mod notes;
mod outbox;
mod secrets;

pub use secrets::Secrets;

use axum::{
    Router,
    routing::{get, post},
};
use outbox::Webhook;
use serde::{Deserialize, Serialize};
use std::{num::NonZeroU16, sync::Arc, time::Duration};
use vestibule::{Application, Background, Build, BuildError, Database, Package, Signer, config};

/// What a request works with: everything that is built from credentials or settings.
pub struct Notes {
    database: Database,
    cursors: Signer,
    max_length: usize,
    webhook: Option<Webhook>,
}

/// How long the cursor of a list leads on. Rotate `signing` no faster.
const CURSOR_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The `[service]` section of the configuration.
#[derive(Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The most characters that a note may have.
    pub max_length: usize,
    /// Who is told of notes that were created or deleted; nobody, if it is absent. Needs `webhook` in `[secrets.ids]`.
    pub webhook_url: Option<config::BaseUrl>,
    /// How long one delivery may take.
    #[serde(with = "config::units::positive_duration")]
    pub webhook_timeout: Duration,
    /// After how many answers that blame it an event is set aside.
    pub webhook_attempts: NonZeroU16,
    /// How old an event gets that was tried more often than that, whatever the answers, before it is set aside.
    #[serde(with = "config::units::positive_duration")]
    pub webhook_give_up: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_length: 4096,
            webhook_url: None,
            webhook_timeout: Duration::from_secs(10),
            webhook_attempts: NonZeroU16::new(20).expect("20 is not zero"),
            webhook_give_up: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

impl Application for Notes {
    const PACKAGE: Package = vestibule::package!();
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self {
            database: cx.database(&cx.secrets.database).await?,
            cursors: cx.signer(&cx.secrets.signing, "cursor", CURSOR_LIFETIME),
            max_length: cx.settings.max_length,
            webhook: Webhook::build(cx).await?,
        })
    }

    fn routes() -> Router<Arc<Self>> {
        Router::new()
            .route("/v1/notes", post(notes::create).get(notes::list))
            .route("/v1/notes/{id}", get(notes::read).delete(notes::delete))
    }

    fn background(tasks: &Background<Self>) {
        outbox::start(tasks);
    }
}
