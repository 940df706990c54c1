//! The configuration, as the binary reads it.

use crate::{SERVICE, support::configuration_folder::ConfigurationFolder};
use devstack::DEFAULT_TIMEOUT;

#[tokio::test]
async fn a_wrong_configuration_ends_with_78_and_names_every_mistake() {
    let folder = ConfigurationFolder::new();
    folder.write("[server]\nlisten = \"here\"\ndrian = \"1s\"\n[service]\napi_key = \"sentinel\"\n");
    for command in ["serve", "check", "config", "migrate"] {
        let launch = SERVICE.launch_without_tenant().await.args([command]).env_remove("APP_SERVER__LISTEN");
        let exited = launch.env("APP_CONFIG_DIR", folder.path()).env("APP_DATABASE__PORT", "sentinel").run();
        assert_eq!(exited.code, Some(78), "{command}");
        for part in ["default.toml:2", "default.toml:3", "default.toml:5", "APP_DATABASE__PORT", "4 faults"] {
            assert!(exited.stderr.contains(part), "{command}: {part} is missing in {}", exited.stderr);
        }
        assert!(!format!("{}{}", exited.stdout, exited.stderr).contains("sentinel"), "{command} quotes a value");
    }
}

#[tokio::test]
async fn a_missing_folder_or_profile_ends_with_78() {
    let launch = SERVICE.launch_without_tenant().await.args(["--config-dir", "/nonexistent/folder"]);
    let exited = launch.run();
    assert_eq!(exited.code, Some(78));
    assert!(exited.stderr.contains("/nonexistent/folder") && exited.stderr.contains("--config-dir"));
    let exited = SERVICE.launch_without_tenant().await.env("APP_PROFILE", "prodution").run();
    assert_eq!(exited.code, Some(78));
    assert!(exited.stderr.contains("prodution.toml"), "{}", exited.stderr);
}

#[tokio::test]
async fn a_pretty_log_shows_the_report_once() {
    let tenant = SERVICE.tenant("pretty").await;
    tenant.delete("signing").await.unwrap();
    let process = SERVICE.launch(&tenant).env("APP_TELEMETRY__FORMAT", "pretty").start();
    let exited = process.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(66));
    assert!(exited.stderr.contains("credential `signing`"));
    assert!(!exited.stdout.contains("signing"), "{}", exited.stdout);
}
