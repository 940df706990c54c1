//! Notes: the example service. Copy what you need from it, then delete it.
//!
//! ```text
//! secrets.rs ─► Notes::build ─► routes ─► notes.rs ─► outbox.rs ─► the webhook
//! ```
//!
//! - To add a credential, add a field to [`Secrets`]. Its id is `<secrets.prefix>/<field>`, unless `[secrets.ids]` has one.
//! - To add a setting, add a field to [`Settings`]: it is a key of `[service]` in `config/`.
//! - To add a route, describe it with `#[utoipa::path]`, and add it to [`Notes::routes`](vestibule::Application::routes).
//! - To work in the background, see `outbox.rs`. Delete it if you have no webhook.
//! - To change the schema, add a file to `migrations/`.

mod notes;
mod outbox;
mod secrets;

pub use secrets::Secrets;

use outbox::Webhook;
use serde::{Deserialize, Serialize};
use std::{num::NonZeroU16, sync::Arc, time::Duration};
use vestibule::{
    Application, Background, Build, BuildError, ConfigSection, Database, OpenApiRouter, Package, Signer, config, routes,
};

/// The service: everything that is built from credentials or settings. Requests work with it.
pub struct Notes {
    database: Database,
    cursors: Signer,
    max_length: usize,
    webhook: Option<Webhook>,
    deliveries: vestibule::WorkerWake,
}

/// The lifetime of a list's cursor. Rotate `signing` no faster than this.
const CURSOR_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The `[service]` section of the configuration.
#[derive(Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct Settings {
    /// The largest number of characters in a note.
    #[setting(min = 1, max = 100_000)]
    pub max_length: usize,
    /// The URL that is told of created and deleted notes. Without it, nobody is told. Needs `webhook` in `[secrets.ids]`.
    pub webhook_url: Option<config::BaseUrl>,
    /// The timeout of one delivery.
    #[serde(with = "config::units::duration")]
    #[setting(min = "100ms", max = "1m")]
    pub webhook_timeout: Duration,
    /// The permanent failures before an event is set aside.
    #[setting(min = 1, max = 1000)]
    pub webhook_attempts: NonZeroU16,
    /// The age at which an event is set aside after more attempts than that, whatever their failures.
    #[serde(with = "config::units::duration")]
    #[setting(min = "1m", max = "30d")]
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

    fn check(settings: &Settings, check: &mut config::SettingsCheck<'_>) {
        if settings.webhook_url.is_some() && !check.has_credential("webhook") {
            check.refuse("service.webhook_url", "its key too: webhook = \"{prefix}/webhook\" in [secrets.ids]");
        }
    }

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self {
            database: cx.database(&cx.secrets.database).await?,
            cursors: cx.signer(&cx.secrets.signing, "cursor", CURSOR_LIFETIME),
            max_length: cx.settings.max_length,
            webhook: Webhook::build(cx).await?,
            deliveries: cx.worker_wake("webhook"),
        })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().routes(routes!(notes::create, notes::list)).routes(routes!(notes::read, notes::delete))
    }

    fn background(tasks: &Background<Self>) {
        outbox::start(tasks);
    }
}
