//! Says hello: an empty service, to build yours on.
//!
//! ```text
//! secrets.rs ─► Hello::build ─► routes ─► hello.rs
//! ```
//!
//! - To add a credential, add a field to [`Secrets`]. Its id is `<secrets.prefix>/<field>`, unless `[secrets.ids]` has one.
//! - To add a setting, add a field to [`Settings`]: it is a key of `[service]` in `config/`.
//! - To add a route, describe it with `#[utoipa::path]`, and add it to [`Hello::routes`](vestibule::Application::routes).
//! - To work in the background, add [`Hello::background`](vestibule::Application::background).
//! - To check more before requests come, add [`Hello::readiness`](vestibule::Application::readiness).
//! - To change the schema, add a file to `migrations/`.

mod hello;
mod secrets;

pub use secrets::Secrets;

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use vestibule::{Application, Build, BuildError, ConfigSection, Database, OpenApiRouter, Package, routes};

/// The service: everything that is built from credentials or settings. Requests work with it.
pub struct Hello {
    database: Database,
    language: String,
}

/// The `[service]` section of the configuration.
#[derive(Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct Settings {
    /// The language of greetings, as in `greetings.language`.
    pub language: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { language: "en".into() }
    }
}

impl Application for Hello {
    const PACKAGE: Package = vestibule::package!();
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self { database: cx.database(&cx.secrets.database).await?, language: cx.settings.language.clone() })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new().routes(routes!(hello::greet))
    }
}
