//! A configuration of a test's own.

use crate::SERVICE;
use devstack::{Launch, Tenant};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A folder with a `default.toml`. It is deleted when this is dropped.
pub(crate) struct ConfigurationFolder(PathBuf);

impl ConfigurationFolder {
    /// Creates a folder whose `default.toml` says only that the public listener is on a free port.
    pub(crate) fn new() -> Self {
        let folder = Self(std::env::temp_dir().join(format!("config-{}", devstack::random())));
        fs::create_dir_all(&folder.0).expect("a folder");
        folder.write("");
        folder
    }

    /// Replaces `default.toml`. The public listener is on a free port unless `text` has a `[server]`.
    pub(crate) fn write(&self, text: &str) {
        let server = if text.contains("[server]") { "" } else { "[server]\nlisten = \"127.0.0.1:0\"\n" };
        // Nobody sees a part of it.
        let new = self.0.join("default.new");
        fs::write(&new, format!("{server}{text}")).expect("a file");
        fs::rename(new, self.0.join("default.toml")).expect("a file");
    }

    /// Prepares the service with this folder. The variables that a tenant sets for the listeners and the Regions are
    /// removed, because they have precedence over the file.
    pub(crate) fn launch(&self, tenant: &Tenant) -> Launch {
        SERVICE
            .launch(tenant)
            .env("APP_CONFIG_DIR", self.path())
            .env_remove("APP_SERVER__LISTEN")
            .env_remove("APP_SERVER__TLS")
            .env_remove("APP_ADMIN__TLS")
            .env_remove("APP_SECRETS__AWS__REGIONS")
    }

    /// Returns the path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ConfigurationFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
