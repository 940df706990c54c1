//! The check of a service's settings against each other.

use super::settings::SecretsConfig;

/// The mistakes in a service's settings that involve more than one of them. [`Application::check`](crate::Application::check)
/// has an example.
#[derive(Debug)]
pub struct SettingsCheck<'a> {
    secrets: &'a SecretsConfig,
    pub(super) mistakes: Vec<SettingsMistake>,
}

#[derive(Debug)]
pub(super) struct SettingsMistake {
    pub(super) key: &'static str,
    pub(super) expected: &'static str,
}

impl<'a> SettingsCheck<'a> {
    pub(super) fn new(secrets: &'a SecretsConfig) -> Self {
        Self { secrets, mistakes: Vec::new() }
    }

    /// Returns `true` if an optional credential is on: `[secrets.ids]` has its id.
    pub fn has_credential(&self, name: &str) -> bool {
        self.secrets.ids.contains_key(name)
    }

    /// Refuses the configuration. The report names the file and the line of `key`, or its variable, and says what was
    /// expected there.
    pub fn refuse(&mut self, key: &'static str, expected: &'static str) {
        self.mistakes.push(SettingsMistake { key, expected });
    }
}
