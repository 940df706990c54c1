//! Configuration, as the binary reads it.

use crate::{SERVICE, service, tenant};
use devstack::{Launch, Tenant};
use std::{path::PathBuf, time::Duration};

/// A configuration folder of one test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(std::env::temp_dir().join(format!("config-{}", devstack::random())));
        std::fs::create_dir_all(&folder.0).expect("a folder");
        folder.write("");
        folder
    }

    /// The service with this folder; what a tenant's variables say of the listeners is left to the files.
    pub(crate) fn launch(&self, tenant: &Tenant) -> Launch {
        service(tenant)
            .env("APP_CONFIG_DIR", &self.0)
            .env_remove("APP_SERVER__LISTEN")
            .env_remove("APP_SERVER__TLS")
            .env_remove("APP_ADMIN__TLS")
            .env_remove("APP_SECRETS__AWS__REGIONS")
    }

    /// Replaces `default.toml`; the listener is on port 0 unless `text` has a `[server]`.
    pub(crate) fn write(&self, text: &str) {
        let server = if text.contains("[server]") { "" } else { "[server]\nlisten = \"127.0.0.1:0\"\n" };
        std::fs::write(self.0.join("default.toml"), format!("{server}{text}")).expect("a file");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_wrong_configuration_ends_with_78_and_names_every_mistake() {
    let folder = Folder::new();
    folder.write("[server]\nlisten = \"here\"\ndrian = \"1s\"\n[service]\napi_key = \"sentinel\"\n");
    for command in ["serve", "check", "config", "migrate"] {
        let launch = SERVICE.launch_without_tenant().await.args([command]).env_remove("APP_SERVER__LISTEN");
        let exited = launch.env("APP_CONFIG_DIR", &folder.0).env("APP_DATABASE__PORT", "sentinel").run();
        assert_eq!(exited.code, Some(78), "{command}");
        for part in ["default.toml:2", "default.toml:3", "default.toml:5", "APP_DATABASE__PORT", "4 faults"] {
            assert!(exited.stderr.contains(part), "{command}: {part} is missing in {}", exited.stderr);
        }
        assert!(!format!("{}{}", exited.stdout, exited.stderr).contains("sentinel"), "{command} quotes a value");
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_ends_with_78() {
    let launch = SERVICE.launch_without_tenant().await.args(["--config-dir", "/nonexistent/folder"]);
    let exited = launch.run();
    assert_eq!(exited.code, Some(78));
    assert!(exited.stderr.contains("/nonexistent/folder") && exited.stderr.contains("--config-dir"));
    let exited = SERVICE.launch_without_tenant().await.env("APP_PROFILE", "prodution").run();
    assert_eq!(exited.code, Some(78));
    assert!(exited.stderr.contains("prodution.toml"), "{}", exited.stderr);
}

#[tokio::test]
async fn a_pretty_log_gets_the_report_once() {
    let tenant = tenant("pretty").await;
    tenant.delete("signing").await.unwrap();
    let process = service(&tenant).env("APP_TELEMETRY__FORMAT", "pretty").start();
    let exited = process.exited(Duration::from_secs(30)).await;
    assert_eq!(exited.code, Some(66));
    assert!(exited.stderr.contains("credential `signing`"));
    assert!(!exited.stdout.contains("signing"), "{}", exited.stdout);
}
