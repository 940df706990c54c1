use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_secretsmanager::Client;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::authority::{Authority, Identity, Validity};
use crate::manager::{ACCESS_KEY, Manager, REGION};
use crate::planted::{Planted, random, random_key, random_password};
use crate::postgres::{Postgres, format_and_run};
use crate::python::Python;
use crate::rotation::{Database, Rotation};
use crate::secret::Secret;
use crate::{Error, Stack};

/// What one test owns: a database, its roles, and the secrets with their logins.
///
/// | role | is |
/// |---|---|
/// | `<name>_migrator` | the owner of the database; its login is the secret `<name>/migrator` |
/// | `<name>_access` | a group, for `database.access_role` |
/// | `<name>_app` | a member of that group; its login is the secret `<name>/database` |
#[derive(Clone)]
pub struct Tenant {
    name: String,
    ids: BTreeMap<String, String>,
    postgres: Postgres,
    manager: Manager,
    python: Python,
    authority: Arc<Authority>,
    client: Client,
    planted: Planted,
}

impl Stack {
    /// A database with its roles, and no secrets. `ids` names the secrets of credentials whose id is not
    /// `<name>/<credential>`.
    pub async fn empty_tenant(
        &self,
        name: &str,
        ids: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Tenant, Error> {
        let tenant = Tenant {
            name: name.into(),
            ids: ids.into_iter().collect(),
            postgres: self.postgres().clone(),
            manager: self.manager().clone(),
            python: self.python().clone(),
            authority: Arc::clone(self.authority()),
            client: self.manager().client(),
            planted: Planted::default(),
        };
        let (migrator, access) = (tenant.migrator(), tenant.access_role());
        let mut admin = tenant.postgres.admin("postgres").await?;
        for (statement, names) in [
            ("CREATE ROLE %I LOGIN", vec![migrator.as_str()]),
            ("CREATE ROLE %I NOLOGIN", vec![&access]),
            ("CREATE DATABASE %I OWNER %I", vec![name, &migrator]),
            ("REVOKE ALL ON DATABASE %I FROM PUBLIC", vec![name]),
            ("GRANT CONNECT ON DATABASE %I TO %I", vec![name, &access]),
        ] {
            format_and_run(&mut admin, statement, &names)
                .await
                .map_err(Error::database(format!("create the database `{name}` and its roles")))?;
        }
        admin.close().await.map_err(Error::database("close a connection"))?;
        Ok(tenant)
    }
}

impl Tenant {
    /// The two logins that every service of this framework has, and signing keys.
    pub(crate) async fn furnish(&self) -> Result<(), Error> {
        for (credential, kind) in [("database", "login"), ("migrator", "login"), ("signing", "signing_keys")] {
            self.plant(credential, kind).await?;
        }
        Ok(())
    }

    /// Gives a credential a random value of its kind, named as in `config --json`. `None`: the kind is not known here.
    pub async fn plant(&self, credential: &str, kind: &str) -> Result<Option<String>, Error> {
        let version = match kind {
            "login" => self.plant_login(credential).await?,
            "signing_keys" => self.put(credential, &random_key()).await?,
            "api_key" => self.put(credential, &random()).await?,
            "tls_identity" => self.put_identity(credential, &self.authority.local(Validity::days(90))).await?,
            "client_ca" => self.put(credential, self.authority.certificate()).await?,
            _ => return Ok(None),
        };
        Ok(Some(version))
    }

    /// Gives a credential a role, with a random password, and the secret to log in as that role.
    pub async fn plant_login(&self, credential: &str) -> Result<String, Error> {
        let (role, password) = (self.role(credential), random_password());
        if credential != "migrator" {
            self.create_role(&role).await?;
        }
        self.set_password(&role, &password).await?;
        let secret = json!({ "engine": "postgres", "username": role, "password": password });
        self.put(credential, &secret.to_string()).await
    }

    async fn create_role(&self, role: &str) -> Result<(), Error> {
        format_and_run(&mut self.admin().await?, "CREATE ROLE %I LOGIN IN ROLE %I", &[role, &self.access_role()])
            .await
            .map_err(Error::database(format!("create the role `{role}`")))
    }

    /// The database, and the start of every role's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What secret ids start with: `secrets.prefix`.
    pub fn prefix(&self) -> &str {
        &self.name
    }

    /// The role that the service logs in as.
    pub fn app(&self) -> String {
        self.role("database")
    }

    /// The role that owns the tables.
    pub fn migrator(&self) -> String {
        self.role("migrator")
    }

    /// The group that the service's roles are in.
    pub fn access_role(&self) -> String {
        format!("{}_access", self.name)
    }

    fn role(&self, credential: &str) -> String {
        let role = if credential == "database" { "app" } else { credential };
        format!("{}_{role}", self.name)
    }

    /// What the manager calls a credential's secret.
    pub fn id(&self, credential: &str) -> String {
        self.ids.get(credential).cloned().unwrap_or_else(|| format!("{}/{credential}", self.name))
    }

    fn secret(&self, credential: &str) -> Secret {
        Secret::new(&self.client, self.id(credential))
    }

    /// A client of the manager, for what the methods below do not cover. [`Self::remember`] what it plants.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The manager.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Who issues certificates: the whole stack's.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where the database is.
    pub fn database(&self) -> Database {
        Database { host: self.postgres.host.clone(), port: self.postgres.port, name: self.name.clone() }
    }

    /// Creates the secret, or gives it a new AWSCURRENT version; returns the version's id.
    pub async fn put(&self, credential: &str, value: &str) -> Result<String, Error> {
        self.planted.remember(credential, value);
        self.secret(credential).put(value).await
    }

    /// The same for a certificate and its key.
    pub async fn put_identity(&self, credential: &str, identity: &Identity) -> Result<String, Error> {
        self.put(credential, &identity.secret()).await
    }

    /// Adds a version whose only label is AWSPENDING; returns the version's id.
    pub async fn put_pending(&self, credential: &str, value: &str) -> Result<String, Error> {
        self.planted.remember(credential, value);
        let version = random();
        self.secret(credential).add(&version, value, "AWSPENDING").await?;
        Ok(version)
    }

    /// The same as [`Self::put`] with a binary value.
    pub async fn put_binary(&self, credential: &str, value: &[u8]) -> Result<String, Error> {
        if let Ok(text) = str::from_utf8(value) {
            self.planted.remember(credential, text);
        }
        self.secret(credential).put(value).await
    }

    /// Makes a secret that has no value, in place of the one that is there.
    pub async fn create_empty(&self, credential: &str) -> Result<(), Error> {
        self.delete(credential).await?;
        self.secret(credential).create().await
    }

    /// Removes a secret, whether or not it is there.
    pub async fn delete(&self, credential: &str) -> Result<(), Error> {
        let id = self.id(credential);
        let deleted = self.client.delete_secret().secret_id(&id).force_delete_without_recovery(true).send().await;
        deleted.map_err(Error::manager(format!("delete {id}")))?;
        Ok(())
    }

    /// The id of the version with this label (`AWSCURRENT`, `AWSPENDING`, `AWSPREVIOUS`).
    pub async fn version(&self, credential: &str, stage: &str) -> Result<Option<String>, Error> {
        self.secret(credential).version(stage).await
    }

    /// The text of the version with this label.
    pub async fn value(&self, credential: &str, stage: &str) -> Result<String, Error> {
        self.secret(credential).text(stage).await
    }

    /// A connection of a login, with the password of the version that has this label.
    pub async fn log_in(&self, credential: &str, stage: &str) -> Result<PgConnection, Error> {
        self.rotation(credential).log_in(stage).await
    }

    /// A connection of the superuser to the tenant's database.
    pub async fn admin(&self) -> Result<PgConnection, Error> {
        self.postgres.admin(&self.name).await
    }

    /// A connection of a role, with this password.
    pub async fn connect(&self, role: &str, password: &str) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect_with(&self.postgres.options(&self.name, role, password)).await
    }

    /// Changes a role's password behind the manager's back.
    pub async fn set_password(&self, role: &str, password: &str) -> Result<(), Error> {
        self.planted.remember(role, password);
        format_and_run(&mut self.admin().await?, "ALTER ROLE %I PASSWORD %L", &[role, password])
            .await
            .map_err(Error::database(format!("set the password of `{role}`")))
    }

    /// Lets a role have no more than this many sessions at a time; -1 lifts the limit. Those it has stay.
    pub async fn limit_connections(&self, role: &str, limit: i32) -> Result<(), Error> {
        format_and_run(&mut self.admin().await?, "ALTER ROLE %I CONNECTION LIMIT %s", &[role, &limit.to_string()])
            .await
            .map_err(Error::database(format!("limit the sessions of `{role}`")))
    }

    /// Ends every session of a role; returns how many there were.
    pub async fn kill_connections(&self, role: &str) -> Result<usize, Error> {
        let killed: i64 = self
            .count("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1", role)
            .await?;
        Ok(killed as usize)
    }

    /// How many sessions a role has now.
    pub async fn connections(&self, role: &str) -> Result<usize, Error> {
        Ok(self.count("SELECT count(*) FROM pg_stat_activity WHERE usename = $1", role).await? as usize)
    }

    async fn count(&self, query: &'static str, role: &str) -> Result<i64, Error> {
        let asked = sqlx::query_scalar(query).bind(role).fetch_one(&mut self.admin().await?).await;
        asked.map_err(Error::database(format!("ask about the role `{role}`")))
    }

    /// How often PostgreSQL has refused a role, by its log.
    pub fn logins_refused(&self, role: &str) -> Result<usize, Error> {
        let log = std::fs::read_to_string(&self.postgres.log).map_err(Error::io("read PostgreSQL's log"))?;
        let who = format!("] {role}@");
        let refused =
            ["password authentication failed", "is not permitted to log in", "permission denied for database"];
        let is_refusal = |line: &&str| line.contains(&who) && refused.iter().any(|text| line.contains(text));
        Ok(log.lines().filter(is_refusal).count())
    }

    /// The four steps of a rotation, one at a time.
    pub fn rotation(&self, credential: &str) -> Rotation {
        let client = self.client.clone();
        Rotation::new(client, credential, &self.id(credential), self.database(), self.planted.clone())
    }

    /// All four steps; returns the id of the new version.
    pub async fn rotate(&self, credential: &str) -> Result<String, Error> {
        let rotation = self.rotation(credential);
        rotation.create_pending().await?;
        rotation.set().await?;
        rotation.test().await?;
        rotation.finish().await?;
        Ok(rotation.version().into())
    }

    /// The other strategy of AWS, with two users that take turns: a new password for the one that is not AWSCURRENT,
    /// which then becomes it. No login is refused at any time, the user before included. The second user is the first
    /// one's name and `_clone`. Returns the id of the new version.
    pub async fn rotate_users(&self, credential: &str) -> Result<String, Error> {
        let role = self.role(credential);
        let clone = format!("{role}_clone");
        let current = self.rotation(credential).login("AWSCURRENT").await?;
        let next = if current["username"] == role { clone } else { role };
        if self.count("SELECT count(*) FROM pg_roles WHERE rolname = $1", &next).await? == 0 {
            self.create_role(&next).await?;
        }
        let password = random_password();
        self.set_password(&next, &password).await?;
        let secret = json!({ "engine": "postgres", "username": next, "password": password });
        self.put(credential, &secret.to_string()).await
    }

    /// Remembers a value that was planted by other means.
    pub fn remember(&self, credential: &str, value: &str) {
        self.planted.remember(credential, value);
    }

    /// Every secret value ever planted.
    pub fn planted(&self) -> Vec<String> {
        self.planted.all()
    }

    /// # Panics
    /// If a planted value is in `text`, in any common encoding. The message names the credential, never the value.
    #[track_caller]
    pub fn assert_secret_free(&self, what: &str, text: &str) {
        self.planted.assert_absent(what, text);
    }

    /// `text` with the credential's name in place of every planted value.
    pub fn redact(&self, text: &str) -> String {
        self.planted.redact(text)
    }

    /// What a service needs in its environment to find its tenant.
    pub fn env(&self) -> Vec<(String, String)> {
        let Postgres { host, port, .. } = &self.postgres;
        [
            ("APP_SECRETS__PREFIX", self.prefix()),
            ("APP_SECRETS__AWS__REGIONS", REGION),
            ("APP_DATABASE__HOST", host),
            ("APP_DATABASE__PORT", &port.to_string()),
            ("APP_DATABASE__NAME", &self.name),
            ("APP_DATABASE__ACCESS_ROLE", &self.access_role()),
            ("APP_DATABASE__TLS", "disable"),
            ("AWS_ENDPOINT_URL", &self.manager.endpoint),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.0),
            ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.1),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
    }

    /// What runs the watchdogs.
    pub fn python(&self) -> &Python {
        &self.python
    }

    pub(crate) fn all_planted(&self) -> &Planted {
        &self.planted
    }
}
