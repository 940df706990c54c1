//! The configuration, as the binary reads it.

use crate::{SERVICE, support::configuration_folder::ConfigurationFolder};
use devstack::DEFAULT_TIMEOUT;
use std::{fs, process::Command};

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
async fn a_file_of_a_wrong_kind_is_refused_and_nobody_waits_for_it() {
    let folder = ConfigurationFolder::new();
    let file = folder.path().join("default.toml");
    fs::remove_file(&file).expect("it is there");
    assert!(Command::new("mkfifo").arg(&file).status().expect("a FIFO").success());
    for command in ["check", "config"] {
        let launch = SERVICE.launch_without_tenant().await.args([command]).env_remove("APP_SERVER__LISTEN");
        let exited = launch.env("APP_CONFIG_DIR", folder.path()).run();
        assert_eq!(exited.code, Some(78), "{command}: {}", exited.stderr);
        assert!(exited.stderr.contains("it is a FIFO, and not a regular file"), "{command}: {}", exited.stderr);
    }
    let bundle = folder.path().join("bundle.pem");
    fs::write(&bundle, "-----BEGIN X509 CRL-----\nAAEC\n-----END X509 CRL-----\n").expect("a file");
    for (variable, remedy) in
        [("SSL_CERT_FILE", "name another file in SSL_CERT_FILE"), ("AWS_CA_BUNDLE", "name a PEM file")]
    {
        let exited = SERVICE.launch_without_tenant().await.env(variable, &bundle).run();
        assert_eq!(exited.code, Some(78), "{variable}: {}", exited.stderr);
        for part in ["block 1 is a `X509 CRL`", remedy] {
            assert!(exited.stderr.contains(part), "{variable}: {part} is missing in {}", exited.stderr);
        }
    }
    for variable in ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"] {
        let exited = SERVICE.launch_without_tenant().await.env(variable, &file).run();
        assert_eq!(exited.code, Some(78), "{variable}: {}", exited.stderr);
        assert!(exited.stderr.contains("it is a FIFO, and not a regular file"), "{variable}: {}", exited.stderr);
    }
}

#[tokio::test]
async fn a_variable_of_the_platform_that_says_nothing_ends_with_78_and_is_not_quoted() {
    for (variable, value, problem) in [
        ("AWS_ENDPOINT_URL", "http://user:sentinel@127.0.0.1:1", "without a user"),
        ("AWS_ENDPOINT_URL", "https://user:sentinel@127.0.0.1:1", "without a user"),
        ("AWS_ENDPOINT_URL_STS", "ftp://sentinel", "expected a URL"),
        ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "sentinel", "expected a URL"),
        ("AWS_ENDPOINT_URL", "https://", "expected a URL"),
        ("AWS_REGION", "eu-west-1a", "expected a Region"),
        ("AWS_REGION", "EU-WEST-1", "expected a Region"),
        ("AWS_DEFAULT_REGION", "sentinel.example/", "expected a Region"),
        ("AWS_USE_FIPS_ENDPOINT", "1", "expected true or false"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "sentinel", "expected true or false"),
    ] {
        let launch = SERVICE.launch_without_tenant().await.env("APP_SECRETS__AWS__REGIONS", "\"\"");
        let launch = if variable.ends_with("REGION") { launch } else { launch.env("AWS_REGION", "eu-west-1") };
        let exited = launch.env(variable, value).run();
        let output = format!("{}{}", exited.stdout, exited.stderr);
        assert_eq!(exited.code, Some(78), "{variable}={value}: {output}");
        assert!(output.contains(problem) && !output.contains("sentinel"), "{variable}={value}: {output}");
    }
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
