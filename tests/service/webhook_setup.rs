//! The service with a webhook, and views of its deliveries and of its outbox.

use crate::SERVICE;
use devstack::{Delivery, Launch, Receiver, RunningService, Tenant, eventually};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use std::net::SocketAddr;

/// Creates a tenant with tables and with a key for the webhook, and starts a receiver that accepts this key.
pub(crate) async fn tenant_with_receiver(label: &str) -> (Tenant, Receiver) {
    let tenant = SERVICE.migrated(label).await;
    tenant.put_random("webhook", "api_key").await.expect("the manager stores it");
    let receiver = Receiver::start().expect("a receiver");
    receiver.accept([current_key(&tenant).await]);
    (tenant, receiver)
}

/// Returns the current key for the webhook.
pub(crate) async fn current_key(tenant: &Tenant) -> String {
    tenant.value("webhook", "AWSCURRENT").await.expect("a key")
}

/// Prepares the service with a webhook at this address.
pub(crate) fn launch_with_webhook(tenant: &Tenant, address: SocketAddr) -> Launch {
    SERVICE
        .launch(tenant)
        .env("APP_SERVICE__WEBHOOK_URL", format!("http://{address}/hook"))
        .env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"))
}

/// Starts the service with a receiver as its webhook.
pub(crate) async fn start_with_webhook<'a>(tenant: &'a Tenant, receiver: &Receiver) -> RunningService<'a> {
    RunningService::start(launch_with_webhook(tenant, receiver.address()), tenant).await
}

/// Returns the number of rows of the outbox that meet a condition in SQL.
pub(crate) async fn count_outbox_rows(tenant: &Tenant, condition: &str) -> i64 {
    let count = format!("SELECT count(*) FROM outbox WHERE {condition}");
    let mut admin = tenant.admin().await.expect("a connection");
    sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut admin).await.expect("a count")
}

/// Waits until exactly this number of rows of the outbox meet a condition in SQL.
#[track_caller]
pub(crate) fn wait_for_outbox_rows(tenant: &Tenant, condition: &str, wanted: i64) -> impl Future<Output = ()> {
    eventually("rows of the outbox", async move || {
        let count = count_outbox_rows(tenant, condition).await;
        if count == wanted { Ok(()) } else { Err(format!("{count} rows, and not {wanted}, with {condition}")) }
    })
}

/// Returns the number of attempts to deliver with this outcome, as the metrics count them.
pub(crate) async fn delivery_count(running: &RunningService<'_>, outcome: &str) -> f64 {
    let service = env!("CARGO_PKG_NAME").replace('-', "_");
    running.metric(&format!("{service}_webhook_deliveries_total{{outcome=\"{outcome}\"}}")).await
}

/// Returns the type of the event and the id of the note of each delivery.
pub(crate) fn delivered_events(deliveries: &[Delivery]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    deliveries.iter().map(Delivery::json).map(|event| (text(&event["type"]), text(&event["note"]["id"]))).collect()
}
