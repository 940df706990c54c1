//! The binary of the service under test.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::stack::Stack;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::declared_databases::DeclaredDatabases;
use crate::stack::tenant::{Tenant, unique_name};
use crate::testing::launch::Launch;
use crate::testing::running_service::RunningService;

/// The prefix of ids with which the service declares them. Each tenant has another one.
const DECLARED_PREFIX: &str = "prefix-of-the-tenant";

/// The binary of the service under test. All tests of a crate share one:
///
/// ```ignore
/// // The name of the package itself finds it, whatever that name is.
/// static SERVICE: Binary = Binary::at(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));
/// ```
pub struct Binary {
    path: &'static str,
    variables: &'static [(&'static str, &'static str)],
    declarations: OnceCell<Declarations>,
}

/// The part of `config --json` that says what a tenant must have.
#[derive(Deserialize)]
struct Declarations {
    credentials: Vec<DeclaredCredential>,
    settings: DeclaredSettings,
}

#[derive(Deserialize)]
struct DeclaredSettings {
    secrets: DeclaredSecrets,
    #[serde(flatten)]
    databases: DeclaredDatabases,
}

#[derive(Deserialize)]
struct DeclaredSecrets {
    /// `[secrets.ids]`. It also has the ids of credentials that are off, which a test can turn on.
    ids: BTreeMap<String, String>,
}

impl Binary {
    /// Names the file.
    pub const fn at(path: &'static str) -> Self {
        Self::with_variables(path, &[])
    }

    /// Names the file, and variables for each process of it. A test can set other values.
    pub const fn with_variables(path: &'static str, variables: &'static [(&'static str, &'static str)]) -> Self {
        Self { path, variables, declarations: OnceCell::const_new() }
    }

    /// Returns the file.
    pub fn path(&self) -> &'static Path {
        Path::new(self.path)
    }

    /// Prepares the service, and does not start it.
    pub fn launch(&self, tenant: &Tenant) -> Launch {
        self.with_own_variables(Launch::with_tenant(self.path, tenant))
    }

    /// Prepares the service without a tenant, for what it must reject before it needs one.
    pub async fn launch_without_tenant(&self) -> Launch {
        self.with_own_variables(Launch::without_tenant(self.path).await)
    }

    fn with_own_variables(&self, mut launch: Launch) -> Launch {
        for (name, value) in self.variables {
            launch = launch.env(*name, *value);
        }
        launch
    }

    /// Starts the service with its own configuration, and waits until it serves.
    pub async fn start<'a>(&self, tenant: &'a Tenant) -> RunningService<'a> {
        RunningService::start(self.launch(tenant), tenant).await
    }

    /// Creates a tenant without tables, with a value for every credential that the service declares, and a database for
    /// every section `[databases.SECTION]` of its configuration. A secret has the id that `[secrets.ids]` of
    /// `config/default.toml` declares for it; only an id without `{prefix}/` gets another one, by a variable. If [`Tenant::put_random`] does not know the kind of a
    /// credential, the test must [`Tenant::put`] a value itself.
    ///
    /// # Panics
    /// If the stack does not start.
    pub async fn tenant(&self, label: &str) -> Tenant {
        let tenant = Stack::shared().await.empty_tenant(&unique_name(label), []).await;
        self.with_all_declared(tenant.expect("a tenant")).await
    }

    /// Gives an empty tenant a value for every credential, and the databases of all sections.
    async fn with_all_declared(&self, mut tenant: Tenant) -> Tenant {
        let Declarations { credentials, settings } = self.declarations().await;
        let ids_in_use = credentials.iter().map(|credential| (&credential.name, &credential.id));
        let ids: BTreeMap<_, _> = settings.secrets.ids.iter().chain(ids_in_use).collect();
        tenant.use_declared_ids(ids, DECLARED_PREFIX);
        tenant.put_default_secrets().await.expect("the values are stored");
        for DeclaredCredential { name, kind, .. } in credentials {
            if !matches!(tenant.version(name, "AWSCURRENT").await, Ok(Some(_))) {
                tenant.put_random(name, kind).await.expect("the value is stored");
            }
        }
        // All tenants share one server, so each database has a name of its own.
        let prefix = tenant.name().to_owned();
        let added = tenant.add_databases(&settings.databases, credentials, |section, _| format!("{prefix}_{section}"));
        added.await.expect("the databases are created");
        tenant
    }

    /// Creates a tenant with tables.
    ///
    /// # Panics
    /// As [`Self::tenant`], or if a migration fails.
    pub async fn migrated(&self, label: &str) -> Tenant {
        self.migrate(self.tenant(label).await)
    }

    /// Creates a tenant with tables, whose secrets are at OpenBao.
    ///
    /// # Panics
    /// As [`Self::migrated`], or if OpenBao does not start.
    pub async fn migrated_at_openbao(&self, label: &str) -> Tenant {
        let tenant = Stack::shared().await.empty_tenant_at_openbao(label).await;
        self.migrate(self.with_all_declared(tenant.expect("a tenant")).await)
    }

    fn migrate(&self, tenant: Tenant) -> Tenant {
        let migrate = self.launch(&tenant).args(["migrate"]).run();
        assert_eq!(migrate.code, Some(0), "{}", tenant.redact(&migrate.stderr));
        tenant
    }

    /// Returns the credentials that the service declares, `migrator` included. An optional one is included if its id is
    /// configured.
    pub async fn credentials(&self) -> &[DeclaredCredential] {
        &self.declarations().await.credentials
    }

    async fn declarations(&self) -> &Declarations {
        self.declarations.get_or_init(|| self.read_declarations()).await
    }

    async fn read_declarations(&self) -> Declarations {
        let launch = self.launch_without_tenant().await.env("APP_SECRETS__PREFIX", DECLARED_PREFIX);
        let exited = launch.args(["config", "--json"]).run();
        assert_eq!(exited.code, Some(0), "{}", exited.stderr);
        serde_json::from_str(&exited.stdout).expect("the configuration as JSON")
    }
}
