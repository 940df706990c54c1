use serde_json::Value;
use tokio::sync::OnceCell;

use crate::{Launch, Process, Running, Stack, Tenant};

/// The binary of the service under test. All tests of a crate share one:
///
/// ```ignore
/// // Found by the package's own name, whatever that is.
/// static SERVICE: Binary = Binary::at(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));
/// ```
pub struct Binary {
    path: &'static str,
    credentials: OnceCell<Vec<Asked>>,
}

/// A credential that the service asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// As its field is called.
    pub name: String,
    /// As `config --json` calls it: `login`, `api_key` …
    pub kind: String,
}

impl Binary {
    /// That file.
    pub const fn at(path: &'static str) -> Self {
        Self { path, credentials: OnceCell::const_new() }
    }

    /// The service, not yet started.
    pub fn launch(&self, tenant: &Tenant) -> Launch {
        Process::service(self.path, tenant)
    }

    /// The service without a tenant: for what it must refuse before it asks for one.
    pub async fn bare(&self) -> Launch {
        Process::bare(self.path).await
    }

    /// The service, as it is configured, once it serves.
    pub async fn start<'a>(&self, tenant: &'a Tenant) -> Running<'a> {
        Running::start(self.launch(tenant), tenant).await
    }

    /// A tenant without tables, with a value for every credential that the service asks for. Of a kind that
    /// [`Tenant::plant`] does not know, the test must [`Tenant::put`] one itself.
    ///
    /// # Panics
    /// If the stack does not start.
    pub async fn tenant(&self, label: &str) -> Tenant {
        let tenant = Stack::shared().await.tenant(label).await.expect("a tenant");
        for Asked { name, kind } in self.credentials().await {
            if !matches!(tenant.version(name, "AWSCURRENT").await, Ok(Some(_))) {
                tenant.plant(name, kind).await.expect("it is planted");
            }
        }
        tenant
    }

    /// A tenant with tables.
    ///
    /// # Panics
    /// As [`Self::tenant`], or if a migration fails.
    pub async fn migrated(&self, label: &str) -> Tenant {
        let tenant = self.tenant(label).await;
        let migrate = self.launch(&tenant).args(["migrate"]).run();
        assert_eq!(migrate.code, Some(0), "{}", tenant.redact(&migrate.stderr));
        tenant
    }

    /// What the service asks for, `migrator` included; of optional ones those whose id is configured.
    pub async fn credentials(&self) -> &[Asked] {
        let ask = async || {
            let config = self.bare().await.args(["config", "--json"]).run();
            assert_eq!(config.code, Some(0), "{}", config.stderr);
            let config: Value = serde_json::from_str(&config.stdout).expect("JSON");
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let credentials = config["credentials"].as_array().expect("a list");
            credentials.iter().map(|one| Asked { name: text(&one["name"]), kind: text(&one["kind"]) }).collect()
        };
        self.credentials.get_or_init(ask).await
    }
}
