//! The binary of the service under test.

use std::path::Path;

use serde_json::Value;
use tokio::sync::OnceCell;

use crate::stack::Stack;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::tenant::Tenant;
use crate::testing::launch::Launch;
use crate::testing::running_service::RunningService;

/// The binary of the service under test. All tests of a crate share one:
///
/// ```ignore
/// // The name of the package itself finds it, whatever that name is.
/// static SERVICE: Binary = Binary::at(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));
/// ```
pub struct Binary {
    path: &'static str,
    credentials: OnceCell<Vec<DeclaredCredential>>,
}

impl Binary {
    /// Names the file.
    pub const fn at(path: &'static str) -> Self {
        Self { path, credentials: OnceCell::const_new() }
    }

    /// Returns the file.
    pub fn path(&self) -> &'static Path {
        Path::new(self.path)
    }

    /// Prepares the service, and does not start it.
    pub fn launch(&self, tenant: &Tenant) -> Launch {
        Launch::with_tenant(self.path, tenant)
    }

    /// Prepares the service without a tenant, for what it must reject before it needs one.
    pub async fn launch_without_tenant(&self) -> Launch {
        Launch::without_tenant(self.path).await
    }

    /// Starts the service with its own configuration, and waits until it serves.
    pub async fn start<'a>(&self, tenant: &'a Tenant) -> RunningService<'a> {
        RunningService::start(self.launch(tenant), tenant).await
    }

    /// Creates a tenant without tables, with a value for every credential that the service declares. If
    /// [`Tenant::put_random`] does not know the kind of a credential, the test must [`Tenant::put`] a value itself.
    ///
    /// # Panics
    /// If the stack does not start.
    pub async fn tenant(&self, label: &str) -> Tenant {
        self.with_all_credentials(Stack::shared().await.tenant(label).await.expect("a tenant")).await
    }

    /// Gives the tenant a value for every credential that it lacks.
    async fn with_all_credentials(&self, tenant: Tenant) -> Tenant {
        for DeclaredCredential { name, kind, .. } in self.credentials().await {
            if !matches!(tenant.version(name, "AWSCURRENT").await, Ok(Some(_))) {
                tenant.put_random(name, kind).await.expect("the value is stored");
            }
        }
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
        let tenant = Stack::shared().await.tenant_at_openbao(label).await;
        self.migrate(self.with_all_credentials(tenant.expect("a tenant")).await)
    }

    fn migrate(&self, tenant: Tenant) -> Tenant {
        let migrate = self.launch(&tenant).args(["migrate"]).run();
        assert_eq!(migrate.code, Some(0), "{}", tenant.redact(&migrate.stderr));
        tenant
    }

    /// Returns the credentials that the service declares, `migrator` included. An optional one is included if its id is
    /// configured.
    pub async fn credentials(&self) -> &[DeclaredCredential] {
        self.credentials.get_or_init(|| self.read_credentials()).await
    }

    async fn read_credentials(&self) -> Vec<DeclaredCredential> {
        let exited = self.launch_without_tenant().await.args(["config", "--json"]).run();
        assert_eq!(exited.code, Some(0), "{}", exited.stderr);
        let mut config: Value = serde_json::from_str(&exited.stdout).expect("JSON");
        serde_json::from_value(config["credentials"].take()).expect("a list of credentials")
    }
}
