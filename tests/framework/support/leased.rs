//! A tenant whose database login OpenBao makes.

use crate::{SERVICE, note_client::NoteClient};
use devstack::{DEFAULT_TIMEOUT, Launch, OpenBaoServer, RunningService, Signal, Tenant, eventually};
use serde_json::json;

/// A tenant whose database login is made by an OpenBao, for the test to change.
pub(crate) struct Leased {
    pub(crate) tenant: Tenant,
    pub(crate) id: String,
    pub(crate) server: &'static OpenBaoServer,
}

impl Leased {
    pub(crate) async fn new(label: &str, ttl: &str, max_ttl: &str) -> Self {
        let tenant = SERVICE.migrated_at_openbao(label).await;
        let server = OpenBaoServer::shared().await;
        let id = server.lease_logins(&tenant, ttl, max_ttl).await.expect("a role");
        Self { tenant, id, server }
    }

    pub(crate) fn launch(&self) -> Launch {
        SERVICE.launch(&self.tenant).env("APP_SECRETS__IDS__DATABASE", &self.id)
    }

    pub(crate) async fn start(&self) -> RunningService<'_> {
        let running = RunningService::start(self.launch(), &self.tenant).await;
        running.create_note("with a user of its own").await;
        running
    }

    /// Adds paths with a capability to the policy of the tenant.
    pub(crate) async fn allow(&self, paths: &[(&str, &str)]) {
        let path = format!("sys/policies/acl/{}", self.tenant.name());
        let before = self.server.api().get(&path).await.expect("a policy")["data"]["policy"].take();
        let mut policy = before.as_str().expect("a text").to_owned();
        for (path, capability) in paths {
            policy += &format!("path \"{path}\" {{ capabilities = [\"{capability}\"] }}\n");
        }
        self.server.api().post(&path, json!({ "policy": policy })).await.expect("the server takes it");
    }

    /// Revokes the tokens of all processes. Their users are gone then.
    pub(crate) async fn revoke_tokens(&self) {
        let api = self.server.api();
        let accessors = api.get("auth/token/accessors?list=true").await.expect("the accessors")["data"]["keys"].take();
        for accessor in accessors.as_array().expect("a list") {
            let accessor = json!({ "accessor": accessor });
            // Another test may have ended it meanwhile.
            let token = api.post("auth/token/lookup-accessor", accessor.clone()).await.unwrap_or_default();
            if token["data"]["policies"].as_array().is_some_and(|all| all.contains(&json!(self.tenant.name()))) {
                api.post("auth/token/revoke-accessor", accessor).await.expect("the token ends");
            }
        }
        self.wait_for_users(0).await;
    }

    /// Ends all leases at once, as somebody does who does not trust them any more.
    pub(crate) async fn revoke_all(&self) {
        self.server.api().put(&format!("sys/leases/revoke-prefix/{}", self.id), json!({})).await.expect("an answer");
    }

    /// Returns the path of the role by which the server makes a user.
    fn role(&self) -> String {
        format!("database/roles/{}", self.tenant.name())
    }

    /// Has the server run a statement before it makes a user, in the same transaction.
    pub(crate) async fn before_each_user(&self, statement: &str) {
        let mut role = self.server.api().get(&self.role()).await.expect("a role")["data"].take();
        role["creation_statements"].as_array_mut().expect("a list").insert(0, statement.into());
        self.server.api().post(&self.role(), role).await.expect("the server takes it");
    }

    /// Gives the service a token that it does not own, as an agent does. Returns the token too.
    pub(crate) async fn with_token_of_agent(&self, launch: Launch) -> (Launch, String) {
        let token = json!({ "policies": [self.tenant.name()], "ttl": "1h" });
        let token = self.server.api().post("auth/token/create", token).await.expect("a token");
        let token = token["auth"]["client_token"].as_str().expect("a token").to_owned();
        self.tenant.remember("token", &token);
        let file = self.server.write_file(&format!("agent-{}", self.tenant.name()), &token).expect("a file");
        let launch = launch.env("APP_SECRETS__VAULT__AUTH", "token_file");
        (launch.env("APP_SECRETS__VAULT__TOKEN_FILE", file), token)
    }

    pub(crate) async fn users(&self) -> Vec<String> {
        self.tenant.leased_users().await.expect("a list")
    }

    /// Waits until this many users are there.
    pub(crate) async fn wait_for_users(&self, expected: usize) {
        eventually("another number of users", async || {
            let users = self.users().await;
            if users.len() == expected { Ok(()) } else { Err(users.join(", ")) }
        })
        .await;
    }
}

pub(crate) async fn user_of(running: &RunningService<'_>) -> String {
    running.credential("database").await["version"].as_str().expect("a version").to_owned()
}

/// Makes requests until the service has another user than the one that is gone, and writes with it.
pub(crate) async fn use_next_user(running: &RunningService<'_>, gone: &str) {
    eventually("another user", async || {
        running.get("/v1/notes").await;
        user_of(running).await != gone
    })
    .await;
    running.create_note("with the next user").await;
}

pub(crate) async fn stop(mut running: RunningService<'_>) {
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
}
