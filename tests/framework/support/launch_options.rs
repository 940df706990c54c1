//! The options with which tests start the service.

use crate::SERVICE;
use devstack::{Launch, RunningService, ScriptedManager, Tenant};

/// A short deadline. A load still meets it on a machine that is busy for a moment.
pub(crate) const SHORT_DEADLINE: &str = "6s";

/// The options with which several tests start the service.
pub(crate) trait LaunchOptions {
    /// Turns polling off. Then only the test itself causes a reload.
    fn without_polling(self) -> Self;

    /// Sends the requests for secrets to a scripted manager.
    fn with_manager(self, manager: &ScriptedManager) -> Self;

    /// Sets `secrets.deadline` to [`SHORT_DEADLINE`].
    fn with_short_deadline(self) -> Self;
}

impl LaunchOptions for Launch {
    fn without_polling(self) -> Self {
        self.env("APP_SECRETS__REFRESH_EVERY", "0s")
    }

    fn with_manager(self, manager: &ScriptedManager) -> Self {
        self.env("AWS_ENDPOINT_URL", manager.endpoint())
    }

    fn with_short_deadline(self) -> Self {
        self.env("APP_SECRETS__DEADLINE", SHORT_DEADLINE)
    }
}

/// Starts the service without polling.
pub(crate) async fn start_without_polling(tenant: &Tenant) -> RunningService<'_> {
    RunningService::start(SERVICE.launch(tenant).without_polling(), tenant).await
}
