//! Logins that OpenBao makes in PostgreSQL, one for each read, each with a lease.

use serde_json::json;

use crate::stack::error::Error;
use crate::stack::openbao::OpenBaoServer;
use crate::stack::random::random_password;
use crate::stack::tenant::Tenant;

/// The statement that makes a user. The user is a member of the group that may use the tables.
const CREATION: &str =
    r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "ACCESS""#;

/// The statements that end a user, with its sessions, unless somebody has dropped it. The default one fails where a table has a
/// sequence.
const REVOCATION: &str = r#"
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
    PERFORM pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE usename = '{{name}}';
    DROP ROLE "{{name}}";
  END IF;
END $$"#;

/// The lifetime of a login that OpenBao makes.
#[derive(Clone, Copy)]
pub struct LeaseTimes<'a> {
    /// The time after which it ends unless it is renewed, such as `20s`.
    pub ttl: &'a str,
    /// The time after which it ends although it was renewed.
    pub max_ttl: &'a str,
}

impl OpenBaoServer {
    /// Has logins made for the service of a tenant, which last for `ttl` and can be renewed until `max_ttl`. Returns the id
    /// of the credential.
    pub async fn lease_logins(&self, tenant: &Tenant, ttl: &str, max_ttl: &str) -> Result<String, Error> {
        let role = tenant.name();
        self.lease_logins_as(tenant, role, &tenant.database().name, LeaseTimes { ttl, max_ttl }).await?;
        Ok(format!("database/creds/{role}"))
    }

    /// Makes the role `database/creds/ROLE`, for a database of a tenant, and lets the tenant's service read it.
    pub async fn lease_logins_as(
        &self,
        tenant: &Tenant,
        role: &str,
        database_name: &str,
        times: LeaseTimes<'_>,
    ) -> Result<(), Error> {
        let (access, password) = (tenant.access_role(), random_password());
        let admin = format!("{role}_vault");
        tenant.remember("the login of OpenBao", &password);
        let statements = [
            ("CREATE ROLE %I LOGIN CREATEROLE PASSWORD %L IN ROLE pg_signal_backend", vec![admin.as_str(), &password]),
            ("GRANT %I TO %I WITH ADMIN OPTION", vec![&access, &admin]),
        ];
        tenant.run_as_superuser(&format!("create the role `{admin}`"), &statements).await?;
        let database = tenant.database();
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": role,
            "connection_url": format!(
                "postgresql://{{{{username}}}}:{{{{password}}}}@{}:{}/{database_name}?sslmode=disable",
                database.host, database.port
            ),
            "username": admin,
            "password": password,
            "password_authentication": "scram-sha-256",
        });
        self.api().post(&format!("database/config/{role}"), connection).await?;
        self.write_lease_role(tenant, role, times, "LOGIN").await?;
        let policy_path = format!("sys/policies/acl/{}", tenant.openbao().map_or(tenant.name(), |access| &access.name));
        let policy = self.api().get(&policy_path).await?;
        let policy = format!(
            "{}path \"database/creds/{role}\" {{ capabilities = [\"read\"] }}\n\
             path \"sys/leases/revoke\" {{ capabilities = [\"update\"] }}\n",
            policy["data"]["policy"].as_str().unwrap_or_default()
        );
        self.api().post(&policy_path, json!({ "policy": policy })).await?;
        Ok(())
    }

    /// Sets the times of the logins, and if a user that is made may log in: `LOGIN` or `NOLOGIN`.
    pub async fn set_lease_role(&self, tenant: &Tenant, ttl: &str, max_ttl: &str, login: &str) -> Result<(), Error> {
        self.write_lease_role(tenant, tenant.name(), LeaseTimes { ttl, max_ttl }, login).await
    }

    async fn write_lease_role(
        &self,
        tenant: &Tenant,
        role: &str,
        times: LeaseTimes<'_>,
        login: &str,
    ) -> Result<(), Error> {
        let creation = CREATION.replace("ACCESS", &tenant.access_role()).replace(" LOGIN ", &format!(" {login} "));
        let settings = json!({
            "db_name": role,
            "creation_statements": [creation],
            "revocation_statements": [REVOCATION],
            "default_ttl": times.ttl,
            "max_ttl": times.max_ttl,
        });
        self.api().post(&format!("database/roles/{role}"), settings).await?;
        Ok(())
    }
}
