//! A service for tests of what is around a service.

use crate::{
    application::{Application, Build},
    openapi::OpenApiRouter,
    package::Package,
    resources::build_error::BuildError,
};
use std::sync::Arc;
use vestibule_derive::SecretSet;

/// The credentials of a service that has none.
#[derive(SecretSet)]
pub(crate) struct NoSecrets;

/// A service that needs nothing and does nothing.
pub(crate) struct IdleService;

impl Application for IdleService {
    const PACKAGE: Package = Package::new("idle", "0");
    type Settings = ();
    type Secrets = NoSecrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}
