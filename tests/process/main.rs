//! The real binary, with real signals, on a real PostgreSQL and a real Secrets Manager emulator.
//!
//! Each test has a tenant of its own: a database, roles and secret names. After each process its output is searched for
//! every secret that was planted.

mod audit;
mod client_ca;
mod commands;
mod config;
mod endurance;
mod metrics;
mod notes;
mod refused;
mod regions;
mod reload;
mod retry;
mod rotation;
mod running;
mod signing;
mod start;
mod stop;
mod tls;
mod tls_client;
mod webhook;

use devstack::{Launch, Process, Stack, Tenant, faults, free_port};
use running::Running;
use serde_json::Value;
use tokio::sync::OnceCell;

/// Found by the package's own name, which a generated service changes.
const SERVICE: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));

/// The service, not yet started.
fn service(tenant: &Tenant) -> Launch {
    Process::service(SERVICE, tenant)
}

/// A tenant without tables, with every credential that the service asks for.
async fn tenant(label: &str) -> Tenant {
    let tenant = Stack::shared().await.tenant(label).await.expect("a tenant");
    for (name, kind) in asked_for().await {
        if !matches!(tenant.version(name, "AWSCURRENT").await, Ok(Some(_))) {
            tenant.plant(name, kind).await.expect("it is planted").expect("devstack knows the kind");
        }
    }
    tenant
}

/// Names and kinds of the service's credentials, so that a new one is in every tenant.
async fn asked_for() -> &'static [(String, String)] {
    static ASKED_FOR: OnceCell<Vec<(String, String)>> = OnceCell::const_new();
    let ask = async || {
        let config = Process::bare(SERVICE).await.args(["config", "--json"]).run();
        let config: Value = serde_json::from_str(&config.stdout).expect("JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let credentials = config["credentials"].as_array().expect("a list");
        credentials.iter().map(|one| (text(&one["name"]), text(&one["kind"]))).collect()
    };
    ASKED_FOR.get_or_init(ask).await
}

/// A tenant with tables.
async fn migrated(label: &str) -> Tenant {
    let tenant = tenant(label).await;
    let migrate = service(&tenant).args(["migrate"]).run();
    assert_eq!(migrate.code, Some(0), "{}", tenant.redact(&migrate.stderr));
    tenant
}

/// A scripted manager before the real one.
async fn scripted(tenant: &Tenant) -> faults::Manager {
    faults::Manager::before(tenant.manager()).await.expect("a scripted manager")
}
