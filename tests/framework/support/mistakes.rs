//! Mistakes in the configuration.

use crate::SERVICE;

/// Checks that `check` with these variables ends with 78, and names the key.
pub(crate) async fn assert_mistake(variables: &[(&str, &str)], key: &str) {
    let launch = SERVICE.launch_without_tenant().await.args(["check"]);
    let exited = variables.iter().fold(launch, |launch, (name, value)| launch.env(name, value)).run();
    assert_eq!(exited.code, Some(78), "{variables:?}");
    assert!(exited.stderr.contains(key), "{key} is missing in {}", exited.stderr);
}
