//! The framework, seen from outside through the example: the real binary, with real signals, on a real PostgreSQL and a
//! real Secrets Manager emulator.
//!
//! Each test has a tenant of its own: a database, roles and secret names. After each process its output is searched for
//! every secret that was planted.

mod audit;
#[path = "../service/client.rs"]
mod client;
mod client_ca;
mod commands;
mod config;
mod documents;
mod endurance;
#[path = "../service/hook.rs"]
mod hook;
mod metrics;
mod refused;
mod regions;
mod reload;
mod retry;
mod rotation;
mod signing;
mod start;
mod stop;
mod tls;
mod tls_client;
mod unavailable;
mod webhook;

use client::Notes;
use devstack::{Binary, DEFAULT_TIMEOUT, Launch, RunningService, ScriptedManager, Tenant, free_port};

/// A deadline that is soon over, and that a machine keeps that stands still for a moment.
const SHORT: &str = "3s";

static SERVICE: Binary = Binary::at(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));

/// The service, not yet started.
fn service(tenant: &Tenant) -> Launch {
    SERVICE.launch(tenant)
}

/// A tenant without tables.
async fn tenant(label: &str) -> Tenant {
    SERVICE.tenant(label).await
}

/// A tenant with tables.
async fn migrated(label: &str) -> Tenant {
    SERVICE.migrated(label).await
}

/// A scripted manager before the real one.
async fn scripted(tenant: &Tenant) -> ScriptedManager {
    ScriptedManager::before(tenant.emulator()).await.expect("a scripted manager")
}
