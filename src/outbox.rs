//! The outbox: it tells a webhook of created and deleted notes, each event at least once, and in order per note.
//!
//! ```text
//! create, delete ─► outbox, in the same transaction ─► claim ─► webhook ─► delivered: its row is deleted
//!                                  ▲                              └─► failed: due again later, or set aside
//!                                  └── a claim expires if its process ends ──┘
//! ```
//!
#![doc = include_str!("outbox.md")]

use crate::Notes;
use axum::{
    body::Bytes,
    http::{Request, header::CONTENT_TYPE},
};
use serde::Serialize;
use serde_json::json;
use sqlx::FromRow;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;
use vestibule::{
    ApiClient, ApiEndpoint, Background, Build, BuildError, Database, DeliveryError, Session, TraceContext, metrics,
};

/// The time that a claim lasts beyond the timeout of its delivery. It is for the statements before and after it.
const CLAIM_MARGIN: Duration = Duration::from_secs(10);

/// The webhook that events are delivered to.
pub(crate) struct Webhook {
    client: ApiClient,
    timeout: Duration,
    max_failures: i32,
    give_up_after: Duration,
    delivered: metrics::Counter,
    failed: metrics::Counter,
    set_aside: metrics::Counter,
}

impl Webhook {
    /// Returns `None` if no URL is configured.
    pub(crate) async fn build(cx: &Build<'_, Notes>) -> Result<Option<Self>, BuildError> {
        // Also without a webhook, so that the series are there with 0.
        let (delivered, failed, set_aside) =
            (counter(cx, "delivered")?, counter(cx, "failed")?, counter(cx, "set_aside")?);
        let (Some(url), Some(key)) = (&cx.settings.webhook_url, &cx.secrets.webhook) else { return Ok(None) };
        let endpoint = ApiEndpoint { timeout: cx.settings.webhook_timeout, ..ApiEndpoint::at(url.clone()) };
        Ok(Some(Self {
            client: cx.client(key, &endpoint).await?,
            timeout: endpoint.timeout,
            max_failures: cx.settings.webhook_attempts.get().into(),
            give_up_after: cx.settings.webhook_give_up,
            delivered,
            failed,
            set_aside,
        }))
    }

    /// Returns the time that a claim lasts. A piece of work may take no longer: somebody else may claim the event then.
    fn claim_time(&self) -> Duration {
        self.timeout + CLAIM_MARGIN
    }

    /// Records an event in the outbox, in the transaction of the change that it is about.
    pub(crate) async fn record(
        &self,
        event: &'static str,
        note_id: Uuid,
        note: impl Serialize,
        trace: &TraceContext,
        transaction: &mut Session,
    ) -> Result<(), sqlx::Error> {
        let id = Uuid::now_v7();
        let payload = json!({ "id": id, "type": event, "note": note }).to_string();
        sqlx::query("INSERT INTO outbox (id, note_id, payload, traceparent, tracestate) VALUES ($1, $2, $3, $4, $5)")
            .bind(id)
            .bind(note_id)
            .bind(payload)
            .bind(trace.traceparent())
            .bind(trace.tracestate())
            .execute(transaction)
            .await?;
        Ok(())
    }

    /// Delivers one event that is due. Returns `false` if there is none.
    async fn deliver(&self, database: &Database) -> Result<bool, sqlx::Error> {
        let Some(claimed) = ClaimedEvent::next(self, database).await? else { return Ok(false) };
        // Gives up before the attempt: an attempt that ends the process never gets to the code after it.
        if claimed.given_up {
            let error = claimed.last_error.as_deref().unwrap_or("no attempt came to an end");
            return self.set_aside(&claimed, error, database).await.map(|()| true);
        }
        match self.client.deliver(claimed.request()).await {
            Ok(()) => {
                self.delivered.inc();
                claimed.delete(database).await?;
            }
            Err(error) => {
                self.failed.inc();
                tracing::debug!(event.id = %claimed.id, attempts = claimed.attempts, %error, "a delivery failed");
                if error.permanent && claimed.blamed + 1 >= self.max_failures {
                    self.set_aside(&claimed, &error.to_string(), database).await?;
                } else {
                    claimed.postpone(&error, database).await?;
                }
            }
        }
        Ok(true)
    }

    async fn set_aside(&self, claimed: &ClaimedEvent, error: &str, database: &Database) -> Result<(), sqlx::Error> {
        let update = sqlx::query(
            "UPDATE outbox SET claim = NULL, last_error = $3, set_aside_at = now() WHERE position = $1 AND claim = $2",
        );
        let update = update.bind(claimed.position).bind(claimed.claim).bind(error);
        // No row: the claim was not ours any more.
        if update.execute(database).await?.rows_affected() > 0 {
            self.set_aside.inc();
            let (event, attempts) = (claimed.id, claimed.attempts);
            tracing::error!(event.id = %event, attempts, error, "an event for the webhook was set aside");
        }
        Ok(())
    }
}

/// Returns the counter of one outcome of deliveries.
fn counter(cx: &Build<'_, Notes>, outcome: &'static str) -> Result<metrics::Counter, BuildError> {
    let help = "Attempts at deliveries to the webhook that succeeded or failed, and events given up";
    cx.counter("webhook_deliveries", help, &[("outcome", outcome)])
}

/// An event that nobody else delivers until the claim expires. Its row is changed only while the claim is ours.
#[derive(FromRow)]
struct ClaimedEvent {
    position: i64,
    id: Uuid,
    payload: String,
    traceparent: Option<String>,
    tracestate: Option<String>,
    /// The number of attempts, this one included.
    attempts: i32,
    /// The number of permanent failures.
    blamed: i32,
    last_error: Option<String>,
    given_up: bool,
    /// The id of this claim. A later claim of the event has another one.
    claim: Uuid,
}

impl ClaimedEvent {
    /// Claims the event that has been due for longest. An event waits for the earlier ones of the same note.
    async fn next(webhook: &Webhook, database: &Database) -> Result<Option<Self>, sqlx::Error> {
        let update = sqlx::query_as(
            "UPDATE outbox SET claim = $1, attempts = attempts + 1, due_at = now() + make_interval(secs => $2)
             WHERE position = (
                 SELECT position FROM outbox AS next
                 WHERE set_aside_at IS NULL AND due_at <= now() AND NOT EXISTS (
                     SELECT FROM outbox AS earlier
                     WHERE earlier.note_id = next.note_id AND earlier.position < next.position
                       AND earlier.set_aside_at IS NULL)
                 ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING position, id, payload, traceparent, tracestate, attempts, blamed, last_error, claim,
                 attempts > $3 AND created_at < now() - make_interval(secs => $4) AS given_up",
        );
        let update = update.bind(Uuid::new_v4()).bind(webhook.claim_time().as_secs_f64());
        update.bind(webhook.max_failures).bind(webhook.give_up_after.as_secs_f64()).fetch_optional(database).await
    }

    fn request(&self) -> Request<Bytes> {
        let mut request = Request::post("/")
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", self.id.to_string())
            .body(Bytes::from(self.payload.clone()))
            .expect("a UUID can stand in a header");
        TraceContext::parse(self.traceparent.as_deref(), self.tracestate.as_deref()).put_on(request.headers_mut());
        request
    }

    async fn delete(&self, database: &Database) -> Result<(), sqlx::Error> {
        let delete = sqlx::query("DELETE FROM outbox WHERE position = $1 AND claim = $2");
        delete.bind(self.position).bind(self.claim).execute(database).await.map(drop)
    }

    /// Makes the event due again after a pause. The later events of the note are due no earlier, so that nobody looks at
    /// them in vain.
    async fn postpone(&self, error: &DeliveryError, database: &Database) -> Result<(), sqlx::Error> {
        let update = sqlx::query(
            "WITH failed AS (
                 UPDATE outbox SET claim = NULL, last_error = $3, blamed = blamed + $4,
                     due_at = now() + make_interval(secs => $5)
                 WHERE position = $1 AND claim = $2 RETURNING position, note_id, due_at)
             UPDATE outbox AS later SET due_at = failed.due_at FROM failed
             WHERE later.note_id = failed.note_id AND later.position > failed.position
               AND later.set_aside_at IS NULL",
        );
        let update = update.bind(self.position).bind(self.claim).bind(error.to_string());
        let update =
            update.bind(i32::from(error.permanent)).bind(error.pause(self.attempts.unsigned_abs()).as_secs_f64());
        update.execute(database).await.map(drop)
    }
}

/// Starts four workers. They deliver the events of all replicas.
pub(crate) fn start(tasks: &Background<Notes>) {
    let deadline = |notes: &Notes| notes.webhook.as_ref().map_or(CLAIM_MARGIN, Webhook::claim_time);
    tasks.work("webhook", 4, deadline, async |notes: Arc<Notes>| match &notes.webhook {
        Some(webhook) => webhook.deliver(&notes.database).await,
        None => Ok(false),
    });
}
