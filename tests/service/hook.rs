//! The other side of the webhook, and what waits for it.

use crate::SERVICE;
use devstack::{DEFAULT_TIMEOUT, Delivery, Launch, Receiver, RunningService, Tenant};
use sqlx::AssertSqlSafe;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A tenant with tables and a key, and a receiver that accepts it.
pub(crate) async fn hooked(label: &str) -> (Tenant, Receiver) {
    let tenant = SERVICE.migrated(label).await;
    tenant.put_random("webhook", "api_key").await.expect("it is planted");
    let receiver = Receiver::start().expect("a receiver");
    receiver.accept([key(&tenant).await]);
    (tenant, receiver)
}

pub(crate) async fn key(tenant: &Tenant) -> String {
    tenant.value("webhook", "AWSCURRENT").await.expect("a key")
}

/// The service with a webhook there.
pub(crate) fn telling(address: SocketAddr, launch: Launch, tenant: &Tenant) -> Launch {
    launch
        .env("APP_SERVICE__WEBHOOK_URL", format!("http://{address}/hook"))
        .env("APP_SERVICE__WEBHOOK_TIMEOUT", "10s")
        .env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"))
}

/// How many rows of the outbox are so.
pub(crate) async fn rows(tenant: &Tenant, so: &str) -> i64 {
    let count = format!("SELECT count(*) FROM outbox WHERE {so}");
    let mut admin = tenant.admin().await.expect("a connection");
    sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut admin).await.expect("a count")
}

pub(crate) async fn until_rows(tenant: &Tenant, so: &str, count: i64) {
    let start = Instant::now();
    while rows(tenant, so).await != count {
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "{so}: {}", rows(tenant, so).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn counted(running: &RunningService<'_>, outcome: &str) -> f64 {
    let service = env!("CARGO_PKG_NAME").replace('-', "_");
    running.metric(&format!("{service}_webhook_deliveries_total{{outcome=\"{outcome}\"}}")).await
}

/// Type and note of each delivery.
pub(crate) fn told(deliveries: &[Delivery]) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    deliveries.iter().map(Delivery::json).map(|event| (text(&event["type"]), text(&event["note"]["id"]))).collect()
}

pub(crate) fn id(path: &str) -> String {
    path.trim_start_matches("/v1/notes/").to_owned()
}
