//! The secrets of a tenant at the manager.

use devstack::{OpenBaoServer, ScriptedManager, Tenant, eventually};
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

/// Copies the secrets of a tenant to another OpenBao. Returns the tenant with that one.
pub(crate) async fn moved_to(server: &OpenBaoServer, tenant: Tenant) -> Tenant {
    let before = OpenBaoServer::shared().await.api();
    let access = server.admit(tenant.name(), &format!("{}/", tenant.name())).await.expect("an answer");
    for credential in ["database", "migrator", "signing"] {
        let id = tenant.id(credential);
        let (value, _) = before.secret(&id).await.expect("an answer").expect("a secret");
        server.api().post(&id, json!({ "data": value })).await.expect("an answer");
    }
    tenant.at_openbao(access)
}
