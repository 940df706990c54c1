//! The real binary, with real signals, on a real PostgreSQL and a real Secrets Manager emulator.
//!
//! Each test has a tenant of its own: a database, roles and secret names. After each process its output is searched for
//! every secret that was planted.

mod commands;
mod config;
mod notes;
mod reload;
mod running;
mod start;
mod stop;

use devstack::{Launch, Process, Stack, Tenant, faults};
use running::Running;

/// Found by the package's own name, which a generated service changes.
const SERVICE: &str = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));

/// The service, not yet started.
fn service(tenant: &Tenant) -> Launch {
    Process::service(SERVICE, tenant)
}

/// A tenant without tables.
async fn tenant(label: &str) -> Tenant {
    Stack::shared().await.tenant(label).await.expect("a tenant")
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

/// A port on which nobody listens.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
