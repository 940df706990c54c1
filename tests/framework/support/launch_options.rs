//! The options with which tests start the service.

use devstack::{Launch, ScriptedManager};

/// A short deadline. A load still meets it on a machine that is busy for a moment.
pub(crate) const SHORT_DEADLINE: &str = "6s";

/// The options with which several tests start the service.
pub(crate) trait LaunchOptions {
    /// Sends the requests for secrets to a scripted manager.
    fn with_manager(self, manager: &ScriptedManager) -> Self;

    /// Sets `secrets.deadline` to [`SHORT_DEADLINE`].
    fn with_short_deadline(self) -> Self;
}

impl LaunchOptions for Launch {
    fn with_manager(self, manager: &ScriptedManager) -> Self {
        self.env("AWS_ENDPOINT_URL", manager.endpoint())
    }

    fn with_short_deadline(self) -> Self {
        self.env("APP_SECRETS__DEADLINE", SHORT_DEADLINE)
    }
}
