//! Logins that OpenBao makes in PostgreSQL, one for each read, each with a lease.

use serde_json::json;

use crate::stack::error::Error;
use crate::stack::openbao::OpenBaoServer;
use crate::stack::random::random_password;
use crate::stack::tenant::Tenant;

/// The statement that makes a user. The user is a member of the group that may use the tables.
const CREATION: &str =
    r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "ACCESS""#;

/// The statements that end a user, with its sessions. The default one fails where a table has a sequence.
const REVOCATION: [&str; 3] = [
    r#"ALTER ROLE "{{name}}" NOLOGIN"#,
    r"SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = '{{name}}'",
    r#"DROP ROLE IF EXISTS "{{name}}""#,
];

impl OpenBaoServer {
    /// Has logins made for the service of a tenant, which last for `ttl` and can be renewed until `max_ttl`. Returns the id
    /// of the credential.
    pub async fn lease_logins(&self, tenant: &Tenant, ttl: &str, max_ttl: &str) -> Result<String, Error> {
        let (name, access, password) = (tenant.name(), tenant.access_role(), random_password());
        let admin = format!("{name}_vault");
        tenant.remember("the login of OpenBao", &password);
        let statements = [
            ("CREATE ROLE %I LOGIN CREATEROLE PASSWORD %L IN ROLE pg_signal_backend", vec![admin.as_str(), &password]),
            ("GRANT %I TO %I WITH ADMIN OPTION", vec![&access, &admin]),
        ];
        tenant.run_as_superuser(&format!("create the role `{admin}`"), &statements).await?;
        let database = tenant.database();
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": name,
            "connection_url": format!(
                "postgresql://{{{{username}}}}:{{{{password}}}}@{}:{}/{}?sslmode=disable",
                database.host, database.port, database.name
            ),
            "username": admin,
            "password": password,
            "password_authentication": "scram-sha-256",
        });
        self.api().post(&format!("database/config/{name}"), connection).await?;
        self.set_lease_role(tenant, ttl, max_ttl, "LOGIN").await?;
        let policy = self.api().get(&format!("sys/policies/acl/{name}")).await?;
        let policy = format!(
            "{}path \"database/creds/{name}\" {{ capabilities = [\"read\"] }}\n\
             path \"sys/leases/revoke\" {{ capabilities = [\"update\"] }}\n",
            policy["data"]["policy"].as_str().unwrap_or_default()
        );
        self.api().post(&format!("sys/policies/acl/{name}"), json!({ "policy": policy })).await?;
        Ok(format!("database/creds/{name}"))
    }

    /// Sets the times of the logins, and if a user that is made may log in: `LOGIN` or `NOLOGIN`.
    pub async fn set_lease_role(&self, tenant: &Tenant, ttl: &str, max_ttl: &str, login: &str) -> Result<(), Error> {
        let creation = CREATION.replace("ACCESS", &tenant.access_role()).replace(" LOGIN ", &format!(" {login} "));
        let role = json!({
            "db_name": tenant.name(),
            "creation_statements": [creation],
            "revocation_statements": REVOCATION,
            "default_ttl": ttl,
            "max_ttl": max_ttl,
        });
        self.api().post(&format!("database/roles/{}", tenant.name()), role).await?;
        Ok(())
    }
}
