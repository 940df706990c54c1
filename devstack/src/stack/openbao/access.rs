//! The access of a service to OpenBao.

use serde_json::json;

use crate::stack::error::Error;
use crate::stack::openbao::OpenBaoServer;
use crate::stack::openbao::api::OpenBao;

/// The access of a service to OpenBao: the variables with which it finds the server, and logs in.
#[derive(Clone)]
pub struct OpenBaoAccess {
    /// The name of its role and its policy.
    pub(crate) name: String,
    pub(crate) api: OpenBao,
    pub(crate) environment: Vec<(String, String)>,
    /// The program, with the variables with which it reaches the server as root.
    command: String,
}

impl OpenBaoServer {
    /// Lets a service read the secrets below these paths of the KV engine, after a login with a JWT. `name` is that of its
    /// role, its policy and the token's subject.
    pub async fn admit(&self, name: &str, below: &str) -> Result<OpenBaoAccess, Error> {
        let read = |path: &str| format!("path \"kv/{path}/{below}*\" {{ capabilities = [\"read\"] }}\n");
        let policy = read("data") + &read("metadata");
        self.api().post(&format!("sys/policies/acl/{name}"), json!({ "policy": policy })).await?;
        let role = json!({
            "role_type": "jwt",
            "bound_audiences": ["local"],
            "bound_subject": name,
            "user_claim": "sub",
            "token_policies": [name],
            // The file of the login has one token, which ends after an hour. The session of `cargo dev` goes on.
            "token_ttl": "768h",
        });
        self.api().post(&format!("auth/jwt/role/{name}"), role).await?;
        let jwt = self.write_file(&format!("jwt-{name}"), &self.issuer().token(name, ""))?;
        let environment = [
            ("APP_SECRETS__PROVIDER", "vault".to_owned()),
            ("APP_SECRETS__VAULT__ADDRESSES", self.api().address().to_owned()),
            ("APP_SECRETS__VAULT__CA", self.authority_file().display().to_string()),
            ("APP_SECRETS__VAULT__AUTH", "jwt".to_owned()),
            ("APP_SECRETS__VAULT__MOUNT", "kv".to_owned()),
            ("APP_SECRETS__VAULT__ROLE", name.to_owned()),
            ("APP_SECRETS__VAULT__JWT_FILE", jwt.display().to_string()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(OpenBaoAccess { name: name.to_owned(), api: self.api().clone(), environment, command: self.command() })
    }
}

impl OpenBaoAccess {
    /// Returns the command with which a person stores a secret.
    pub fn command_to_put(&self, id: &str) -> String {
        let Self { command, .. } = self;
        format!("{command} kv put {} value=@…", id.replacen("/data/", "/", 1))
    }

    /// Returns the variables with which a service finds the server, and logs in.
    pub fn env(&self) -> &[(String, String)] {
        &self.environment
    }
}
