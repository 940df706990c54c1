//! The secrets of a tenant at the manager.

use devstack::{ScriptedManager, Tenant, eventually};
use serde_json::{Value, json};

/// Starts a scripted manager in front of the tenant's emulator.
pub(crate) async fn scripted_manager(tenant: &Tenant) -> ScriptedManager {
    ScriptedManager::before(tenant.emulator()).expect("a scripted manager")
}

/// Waits until the scripted manager has had more than `before` requests for a secret.
#[track_caller]
pub(crate) fn wait_for_request(manager: &ScriptedManager, secret: &str, before: usize) -> impl Future<Output = ()> {
    eventually("a request to the manager", async move || manager.requests(secret) > before)
}

/// Returns the id of the version of a credential that has the label AWSCURRENT.
pub(crate) async fn current_version(tenant: &Tenant, credential: &str) -> String {
    let version = tenant.version(credential, "AWSCURRENT").await.expect("the manager answers");
    version.expect("the secret has a current version")
}

/// Returns the password of the service in the version that has the label AWSCURRENT.
pub(crate) async fn current_password(tenant: &Tenant) -> String {
    password_at(tenant, "AWSCURRENT").await
}

/// Returns the password of the service in the version that has this label.
pub(crate) async fn password_at(tenant: &Tenant, stage: &str) -> String {
    let secret = tenant.value("database", stage).await.expect("the secret has such a version");
    let login: Value = serde_json::from_str(&secret).expect("JSON");
    login["password"].as_str().expect("a password").to_owned()
}

/// Returns a secret for the role of the service, with this password.
pub(crate) fn login_with_password(tenant: &Tenant, password: &str) -> String {
    json!({ "username": tenant.app_role(), "password": password }).to_string()
}
