//! The database of a tenant: logins, passwords and sessions.

use sqlx::{Connection, PgConnection};

use crate::stack::database_address::DatabaseAddress;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::declared_databases::DeclaredDatabases;
use crate::stack::error::Error;
use crate::stack::postgres::sql::format_and_run;
use crate::stack::tenant::Tenant;

/// The texts with which PostgreSQL's log reports a rejected login.
const REJECTED: [&str; 3] =
    ["password authentication failed", "is not permitted to log in", "permission denied for database"];

/// A database of the tenant.
struct LocalDatabase<'a> {
    declared: &'a DatabaseAddress,
    name: String,
    owner: String,
}

impl Tenant {
    /// Logs in with the version of a login that has this label.
    pub async fn log_in(&self, credential: &str, stage: &str) -> Result<PgConnection, Error> {
        self.rotation(credential).log_in(stage).await
    }

    /// Connects the superuser to the tenant's database.
    pub async fn admin(&self) -> Result<PgConnection, Error> {
        self.postgres.admin(&self.name).await
    }

    /// Connects a role with this password.
    pub async fn connect(&self, role: &str, password: &str) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect_with(&self.postgres.options(&self.name, role, password)).await
    }

    /// Creates the databases of the sections `[databases.SECTION]`, and points the service to them. `name_of` names one, by
    /// its section and its declared name. The roles of the migrators must exist.
    ///
    /// Sections with the same address share a database. A section that nobody migrates also shares one with the same name
    /// elsewhere: it is a replica.
    pub(crate) async fn add_databases(
        &mut self,
        declared: &DeclaredDatabases,
        credentials: &[DeclaredCredential],
        name_of: impl Fn(&str, &str) -> String,
    ) -> Result<(), Error> {
        let owner = self.migrator_role();
        if let Some(migrator) = self.role_of_declared("migrator", credentials) {
            self.let_migrate(&migrator, &owner).await?;
        }
        let mut databases = vec![LocalDatabase { declared: &declared.default, name: self.name.clone(), owner }];
        let mut sections = Vec::new();
        for (section, address) in &declared.sections {
            sections.push((section, address, self.role_of_declared(&format!("migrator_{section}"), credentials)));
        }
        // A replica comes after the database that it shares.
        sections.sort_by_key(|(_, _, migrator)| migrator.is_none());
        for (section, address, migrator) in sections {
            let same = databases.iter().find(|database| database.declared == address);
            let replicated = databases.iter().find(|database| database.declared.name == address.name);
            let shared = if migrator.is_some() { same } else { same.or(replicated) };
            let name = if let Some(LocalDatabase { name, owner, .. }) = shared {
                if let Some(migrator) = migrator {
                    self.let_migrate(&migrator, owner).await?;
                }
                name.clone()
            } else {
                let mut name = name_of(section, &address.name);
                // Two servers may have databases of one name. Here is one server.
                if databases.iter().any(|database| database.name == name) {
                    name = format!("{name}_{section}");
                }
                let owner = migrator.unwrap_or_else(|| self.migrator_role());
                self.create_database(&name, &owner).await?;
                databases.push(LocalDatabase { declared: address, name: name.clone(), owner });
                name
            };
            self.databases.insert(section.clone(), name);
        }
        Ok(())
    }

    /// Returns the role of a credential that the service declares. Several credentials may have one secret: then it is the
    /// role of the first.
    fn role_of_declared(&self, name: &str, credentials: &[DeclaredCredential]) -> Option<String> {
        let declared = credentials.iter().find(|credential| credential.name == name)?;
        let first = credentials.iter().find(|credential| credential.id == declared.id)?;
        Some(self.role(&first.name))
    }

    /// Lets a role change what the owner of a database has made.
    async fn let_migrate(&self, role: &str, owner: &str) -> Result<(), Error> {
        if role == owner {
            return Ok(());
        }
        let statements = [("GRANT %I TO %I", vec![owner, role])];
        self.run_as_superuser(&format!("let `{role}` migrate"), &statements).await
    }

    pub(super) async fn create_database(&self, name: &str, owner: &str) -> Result<(), Error> {
        let access = self.access_role();
        let statements = [
            ("CREATE DATABASE %I OWNER %I", vec![name, owner]),
            ("REVOKE ALL ON DATABASE %I FROM PUBLIC", vec![name]),
            ("GRANT CONNECT ON DATABASE %I TO %I", vec![name, &access]),
        ];
        self.run_as_superuser(&format!("create the database `{name}`"), &statements).await
    }

    /// Runs statements with their names, outside of the tenant's database.
    pub(crate) async fn run_as_superuser(&self, what: &str, statements: &[(&str, Vec<&str>)]) -> Result<(), Error> {
        let mut admin = self.postgres.admin("postgres").await?;
        for (statement, names) in statements {
            format_and_run(&mut admin, statement, names).await.map_err(Error::database(what))?;
        }
        admin.close().await.map_err(Error::database("close a connection"))
    }

    pub(super) async fn create_role(&self, role: &str) -> Result<(), Error> {
        format_and_run(&mut self.admin().await?, "CREATE ROLE %I LOGIN IN ROLE %I", &[role, &self.access_role()])
            .await
            .map_err(Error::database(format!("create the role `{role}`")))
    }

    pub(super) async fn has_role(&self, role: &str) -> Result<bool, Error> {
        Ok(self.count("SELECT count(*) FROM pg_roles WHERE rolname = $1", role).await? > 0)
    }

    /// Changes a role's password, and leaves its secret as it is.
    pub async fn set_password(&self, role: &str, password: &str) -> Result<(), Error> {
        self.remember(role, password);
        format_and_run(&mut self.admin().await?, "ALTER ROLE %I PASSWORD %L", &[role, password])
            .await
            .map_err(Error::database(format!("set the password of `{role}`")))
    }

    /// Limits the number of a role's sessions; -1 lifts the limit. Open sessions stay.
    pub async fn limit_connections(&self, role: &str, limit: i32) -> Result<(), Error> {
        format_and_run(&mut self.admin().await?, "ALTER ROLE %I CONNECTION LIMIT %s", &[role, &limit.to_string()])
            .await
            .map_err(Error::database(format!("limit the sessions of `{role}`")))
    }

    /// Ends every session of a role. Returns their number.
    pub async fn kill_connections(&self, role: &str) -> Result<usize, Error> {
        const KILL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1";
        Ok(self.count(KILL, role).await? as usize)
    }

    /// Returns the users that OpenBao has made in the database for this tenant, and that are there still.
    pub async fn leased_users(&self) -> Result<Vec<String>, Error> {
        const MEMBERS: &str = "SELECT u.rolname::text FROM pg_roles u JOIN pg_auth_members m ON m.member = u.oid \
                               JOIN pg_roles g ON g.oid = m.roleid \
                               WHERE g.rolname = $1 AND u.rolname LIKE 'v-%'";
        let asked = sqlx::query_scalar(MEMBERS).bind(self.access_role()).fetch_all(&mut self.admin().await?).await;
        asked.map_err(Error::database("ask for the users that OpenBao made"))
    }

    /// Returns the number of a role's open sessions.
    pub async fn connections(&self, role: &str) -> Result<usize, Error> {
        Ok(self.count("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role).await? as usize)
    }

    async fn count(&self, query: &'static str, role: &str) -> Result<i64, Error> {
        let asked = sqlx::query_scalar(query).bind(role).fetch_one(&mut self.admin().await?).await;
        asked.map_err(Error::database(format!("ask about the role `{role}`")))
    }

    /// Returns the number of logins of a role that PostgreSQL has rejected, by its log.
    pub fn rejected_logins(&self, role: &str) -> Result<usize, Error> {
        let log = std::fs::read_to_string(&self.postgres.log).map_err(Error::io("read PostgreSQL's log"))?;
        let user = format!("] {role}@");
        let mut count = 0;
        for line in log.lines() {
            if line.contains(&user) && REJECTED.iter().any(|text| line.contains(text)) {
                count += 1;
            }
        }
        Ok(count)
    }
}
