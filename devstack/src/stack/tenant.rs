//! A database, its roles and its secrets, for one test or for one `cargo dev`.

mod credentials;
mod database;

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_secretsmanager::Client;

use crate::stack::Stack;
use crate::stack::authority::Authority;
use crate::stack::database_address::DatabaseAddress;
use crate::stack::emulator::{ACCESS_KEY, Emulator, REGION};
use crate::stack::error::Error;
use crate::stack::leak_detector::LeakDetector;
use crate::stack::openbao::OpenBaoServer;
use crate::stack::openbao::access::OpenBaoAccess;
use crate::stack::postgres::Postgres;
use crate::stack::python_environment::PythonEnvironment;
use crate::stack::random::random;

/// A database, its roles, and the secrets with their logins. Nobody else uses them.
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
    /// The variables that lead the service to ids other than those that it declares.
    id_variables: Vec<(String, String)>,
    /// The names of the databases of `[databases.SECTION]`, by section.
    databases: BTreeMap<String, String>,
    postgres: Postgres,
    emulator: Emulator,
    /// The secrets are there instead, and the emulator has none.
    openbao: Option<OpenBaoAccess>,
    python: PythonEnvironment,
    authority: Arc<Authority>,
    client: Client,
    leak_detector: LeakDetector,
}

impl Stack {
    /// Creates a tenant under a name that nobody else has. `label` is a part of the name.
    pub async fn tenant(&self, label: &str) -> Result<Tenant, Error> {
        self.named_tenant(&unique_name(label)).await
    }

    /// Creates a tenant as [`tenant`](Self::tenant) does, whose secrets are at the OpenBao of this test process.
    pub async fn tenant_at_openbao(&self, label: &str) -> Result<Tenant, Error> {
        let tenant = self.empty_tenant_at_openbao(label).await?;
        tenant.put_default_secrets().await?;
        Ok(tenant)
    }

    /// Creates a tenant as [`tenant_at_openbao`](Self::tenant_at_openbao) does, without secrets.
    pub(crate) async fn empty_tenant_at_openbao(&self, label: &str) -> Result<Tenant, Error> {
        let name = unique_name(label);
        let access = OpenBaoServer::shared().await.admit(&name, &format!("{name}/")).await?;
        Ok(self.empty_tenant(&name, []).await?.at_openbao(access))
    }

    /// Creates a tenant under exactly this name. It has the two logins that every service of this framework has, and
    /// signing keys.
    pub async fn named_tenant(&self, name: &str) -> Result<Tenant, Error> {
        let tenant = self.empty_tenant(name, []).await?;
        tenant.put_default_secrets().await?;
        Ok(tenant)
    }

    /// Creates a database with its roles, and no secrets. `ids` names the secrets of credentials whose id is not
    /// `<name>/<credential>`.
    pub async fn empty_tenant(
        &self,
        name: &str,
        ids: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Tenant, Error> {
        let tenant = Tenant {
            name: name.into(),
            ids: ids.into_iter().collect(),
            id_variables: Vec::new(),
            databases: BTreeMap::new(),
            postgres: self.postgres().clone(),
            emulator: self.emulator().clone(),
            openbao: None,
            python: self.python().clone(),
            authority: Arc::clone(self.authority()),
            client: self.emulator().client(),
            leak_detector: LeakDetector::default(),
        };
        let (migrator, access) = (tenant.migrator_role(), tenant.access_role());
        let roles = [("CREATE ROLE %I LOGIN", vec![migrator.as_str()]), ("CREATE ROLE %I NOLOGIN", vec![&access])];
        tenant.run_as_superuser(&format!("create the roles of `{name}`"), &roles).await?;
        tenant.create_database(name, &migrator).await?;
        Ok(tenant)
    }
}

/// Returns a name that nobody else has.
pub(crate) fn unique_name(label: &str) -> String {
    let mut safe_label = label.to_ascii_lowercase();
    safe_label = safe_label.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("{safe_label:.30}_{:.8}", random())
}

/// Returns the variable that names the id of a credential.
fn id_variable(credential: &str) -> String {
    match credential {
        "client_ca" => "APP_SERVER__CLIENT_CA".into(),
        _ => format!("APP_SECRETS__IDS__{}", credential.to_ascii_uppercase()),
    }
}

impl Tenant {
    /// Keeps the secrets at OpenBao from now on.
    pub fn at_openbao(self, access: OpenBaoAccess) -> Self {
        Self { openbao: Some(access), ..self }
    }

    /// Returns the access to OpenBao, if the secrets are there.
    pub fn openbao(&self) -> Option<&OpenBaoAccess> {
        self.openbao.as_ref()
    }

    /// Stores the two logins that every service of this framework has, and signing keys.
    pub(crate) async fn put_default_secrets(&self) -> Result<(), Error> {
        for (credential, kind) in [("database", "login"), ("migrator", "login"), ("signing", "signing_keys")] {
            self.put_random(credential, kind).await?;
        }
        Ok(())
    }

    /// Returns the name of the database, with which every role's name begins.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the start of secret ids: `secrets.prefix`.
    pub fn prefix(&self) -> &str {
        &self.name
    }

    /// Returns the role that the service logs in as.
    pub fn app_role(&self) -> String {
        self.role("database")
    }

    /// Returns the role that owns the tables.
    pub fn migrator_role(&self) -> String {
        self.role("migrator")
    }

    /// Returns the group of the service's roles.
    pub fn access_role(&self) -> String {
        format!("{}_access", self.name)
    }

    fn role(&self, credential: &str) -> String {
        let role = if credential == "database" { "app" } else { credential };
        format!("{}_{role}", self.name)
    }

    /// Returns the id of a credential's secret.
    pub fn id(&self, credential: &str) -> String {
        self.ids.get(credential).cloned().unwrap_or_else(|| self.id_below_prefix(credential))
    }

    fn id_below_prefix(&self, rest: &str) -> String {
        let mount = if self.openbao.is_some() { "kv/data/" } else { "" };
        format!("{mount}{}/{rest}", self.name)
    }

    /// Uses the ids that a service declares, by credential, if its prefix is `prefix`. Below the prefix of this tenant, the
    /// service finds them itself. Any other id would be that of all tenants: this one gets another id, and the service a
    /// variable that names it.
    pub(crate) fn use_declared_ids<'a>(
        &mut self,
        declared: impl IntoIterator<Item = (&'a String, &'a String)>,
        prefix: &str,
    ) {
        for (credential, declared) in declared {
            let id = if let Some((_, rest)) = declared.split_once(&format!("{prefix}/")) {
                self.id_below_prefix(rest)
            } else {
                let id = self.id_below_prefix(&declared.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
                self.id_variables.push((id_variable(credential), id.clone()));
                id
            };
            self.ids.insert(credential.clone(), id);
        }
    }

    /// Returns a client of the emulator, for what the methods of this type do not cover. Call [`Self::remember`] with
    /// the secret values that it stores.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the emulator of the secrets manager.
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// Returns the stack's certificate authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns the address of the database.
    pub fn database(&self) -> DatabaseAddress {
        DatabaseAddress { host: self.postgres.host.clone(), port: self.postgres.port, name: self.name.clone() }
    }

    /// Returns the name of the database of `[databases.SECTION]`. Without such a section, it is that of `[database]`.
    pub(crate) fn database_of_section(&self, section: &str) -> &str {
        self.databases.get(section).unwrap_or(&self.name)
    }

    /// Returns the environment with which a service finds its tenant.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut environment = self.database_env("DATABASE", &self.name);
        for (section, name) in &self.databases {
            environment.extend(self.database_env(&format!("DATABASES__{}", section.to_ascii_uppercase()), name));
        }
        environment.push(("APP_SECRETS__PREFIX".into(), self.prefix().into()));
        environment.extend_from_slice(&self.id_variables);
        if let Some(access) = &self.openbao {
            environment.extend_from_slice(access.env());
            return environment;
        }
        let others = [
            ("APP_SECRETS__PROVIDER", "aws"),
            ("APP_SECRETS__AWS__REGIONS", REGION),
            ("APP_SECRETS__AWS__ALLOW_STATIC_KEYS", "true"),
            ("APP_SECRETS__AWS__ALLOW_HTTP_ENDPOINT", "true"),
            ("AWS_ENDPOINT_URL", &self.emulator.endpoint),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.0),
            ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.1),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(name, value)| (name.into(), value.into()));
        environment.extend(others);
        environment
    }

    fn database_env(&self, section: &str, name: &str) -> Vec<(String, String)> {
        let Postgres { host, port, .. } = &self.postgres;
        let settings = [
            ("HOST", host.as_str()),
            ("PORT", &port.to_string()),
            ("NAME", name),
            ("ACCESS_ROLE", &self.access_role()),
            ("TLS", "disable"),
            ("ALLOW_UNVERIFIED_TLS", "true"),
        ];
        settings.map(|(key, value)| (format!("APP_{section}__{key}"), value.into())).into()
    }

    /// Returns the Python that runs the watchdogs.
    pub fn python(&self) -> &PythonEnvironment {
        &self.python
    }

    /// Adds a secret value that was stored by other means to those that the output must not hold.
    pub fn remember(&self, credential: &str, value: &str) {
        self.leak_detector.remember(credential, value);
    }

    /// Returns every secret value that this tenant has had.
    pub fn secret_values(&self) -> Vec<String> {
        self.leak_detector.secret_values()
    }

    /// Checks that `text` holds no secret value of this tenant, in any common encoding.
    ///
    /// # Panics
    /// If it does. The message names the credential, never the value.
    #[track_caller]
    pub fn assert_secret_free(&self, what: &str, text: &str) {
        self.leak_detector.assert_secret_free(what, text);
    }

    /// Returns `text` with the credential's name in place of every secret value.
    pub fn redact(&self, text: &str) -> String {
        self.leak_detector.redact(text)
    }

    /// Returns what knows the secrets of the tenant. What a test adds is looked for in the output of each process too.
    pub fn leak_detector(&self) -> &LeakDetector {
        &self.leak_detector
    }
}
