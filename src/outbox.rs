//! Tells a webhook of notes that were created and deleted, at least once each, and for each note in order.
//!
//! ```text
//! create, delete ─► outbox, in the same transaction ─► claim ─► webhook ─► done: its row is deleted
//!                                  ▲                              └─► failed: due again later, or set aside
//!                                  └── a claim whose process died runs out ──┘
//! ```
//!
#![doc = include_str!("outbox.md")]

use crate::{Notes, Settings, note::Note};
use axum::{
    body::Bytes,
    http::{Request, header::CONTENT_TYPE},
};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use std::{io, sync::Arc, time::Duration};
use uuid::Uuid;
use vestibule::{
    ApiClient, ApiEndpoint, Background, Build, BuildError, Counter, Database, DeliveryError, TraceContext,
};

/// How many deliveries are under way at a time.
const WORKERS: usize = 4;

/// How much longer a claim lasts than its delivery may take: for telling the database what came of it.
const MARGIN: Duration = Duration::from_secs(10);

/// What the webhook hears of.
#[derive(Serialize)]
#[serde(tag = "type", content = "note")]
pub(crate) enum Event<'a> {
    #[serde(rename = "note.created")]
    Created(&'a Note),
    #[serde(rename = "note.deleted")]
    Deleted { id: Uuid },
}

impl Event<'_> {
    fn note(&self) -> Uuid {
        match self {
            Self::Created(note) => note.id,
            Self::Deleted { id } => *id,
        }
    }

    /// Writes it down, in the transaction of the change that it tells of.
    pub(crate) async fn record(&self, trace: &TraceContext, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        #[derive(Serialize)]
        struct Message<'a> {
            id: Uuid,
            #[serde(flatten)]
            event: &'a Event<'a>,
        }
        let id = Uuid::now_v7();
        let payload = serde_json::to_string(&Message { id, event: self }).expect("it is made of text");
        sqlx::query("INSERT INTO outbox (id, note_id, payload, traceparent, tracestate) VALUES ($1, $2, $3, $4, $5)")
            .bind(id)
            .bind(self.note())
            .bind(payload)
            .bind(trace.traceparent())
            .bind(trace.tracestate())
            .execute(transaction)
            .await?;
        Ok(())
    }
}

/// Where events go.
pub(crate) struct Webhook {
    client: ApiClient,
    timeout: Duration,
    attempts: i32,
    give_up: Duration,
    delivered: Counter,
    failed: Counter,
    set_aside: Counter,
}

impl Webhook {
    /// `None`: no URL is configured.
    pub(crate) async fn build(cx: &Build<'_, Notes>) -> Result<Option<Self>, BuildError> {
        let &Settings { ref webhook_url, webhook_timeout: timeout, webhook_attempts, webhook_give_up: give_up, .. } =
            cx.settings;
        let count = |outcome| {
            let help = "Attempts at deliveries to the webhook that succeeded or failed, and events given up";
            cx.counter("webhook_deliveries", help, &[("outcome", outcome)])
        };
        let (delivered, failed, set_aside) = (count("delivered")?, count("failed")?, count("set_aside")?);
        let Some(url) = webhook_url.clone() else { return Ok(None) };
        let key = cx.secrets.webhook.as_ref().ok_or_else(|| {
            let line = "its key beside it: webhook = \"{prefix}/webhook\", or its id there, in [secrets.ids]";
            BuildError::setting("service.webhook_url", line)
        })?;
        let client = cx.client(key, &ApiEndpoint { timeout, ..ApiEndpoint::at(url) }).await?;
        let attempts = webhook_attempts.get().into();
        Ok(Some(Self { client, timeout, attempts, give_up, delivered, failed, set_aside }))
    }

    /// Delivers one event that is due. `false`: there is none.
    async fn deliver(&self, database: &Database) -> Result<bool, sqlx::Error> {
        let Some(claimed) = Claimed::next(self, database).await? else { return Ok(false) };
        // Before the attempt: one that takes the process down has no end.
        if claimed.given_up {
            let why = claimed.last_error.as_deref().unwrap_or("no attempt came to an end");
            return self.set_aside(&claimed, why, database).await.map(|()| true);
        }
        match self.client.deliver(claimed.request()).await {
            Ok(()) => {
                self.delivered.increment();
                claimed.done(database).await?;
            }
            Err(error) => {
                self.failed.increment();
                tracing::debug!(event.id = %claimed.id, attempts = claimed.attempts, %error, "a delivery failed");
                if error.permanent && claimed.blamed + 1 >= self.attempts {
                    self.set_aside(&claimed, &error.to_string(), database).await?
                } else {
                    claimed.failed(&error, database).await?
                }
            }
        }
        Ok(true)
    }

    async fn set_aside(&self, claimed: &Claimed, error: &str, database: &Database) -> Result<(), sqlx::Error> {
        let update = sqlx::query(
            "UPDATE outbox SET claim = NULL, last_error = $3, set_aside_at = now() WHERE position = $1 AND claim = $2",
        );
        let update = update.bind(claimed.position).bind(claimed.claim).bind(error);
        // None: it was not ours any more.
        if soon(update.execute(database)).await?.rows_affected() > 0 {
            self.set_aside.increment();
            let (event, attempts) = (claimed.id, claimed.attempts);
            tracing::error!(event.id = %event, attempts, error, "an event for the webhook was set aside");
        }
        Ok(())
    }
}

/// An event that nobody else delivers until the claim runs out. What is told of it afterwards counts only while the
/// claim is still ours.
#[derive(FromRow)]
struct Claimed {
    position: i64,
    id: Uuid,
    payload: String,
    traceparent: Option<String>,
    tracestate: Option<String>,
    /// This one included.
    attempts: i32,
    blamed: i32,
    last_error: Option<String>,
    given_up: bool,
    claim: Uuid,
}

impl Claimed {
    /// Claims what has been due for longest, of those events that no earlier one of the same note stands before.
    async fn next(webhook: &Webhook, database: &Database) -> Result<Option<Self>, sqlx::Error> {
        let claim = sqlx::query_as(
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
        let claim = claim.bind(Uuid::new_v4()).bind((webhook.timeout + MARGIN).as_secs_f64());
        let claim = claim.bind(webhook.attempts).bind(webhook.give_up.as_secs_f64());
        soon(claim.fetch_optional(database)).await
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

    async fn done(&self, database: &Database) -> Result<(), sqlx::Error> {
        let delete = sqlx::query("DELETE FROM outbox WHERE position = $1 AND claim = $2");
        soon(delete.bind(self.position).bind(self.claim).execute(database)).await.map(drop)
    }

    /// Due again after a pause, and what waits behind it no earlier, so that nobody looks at it in vain.
    async fn failed(&self, error: &DeliveryError, database: &Database) -> Result<(), sqlx::Error> {
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
        soon(update.execute(database)).await.map(drop)
    }
}

/// A statement for which nobody waits longer than half of what a claim lasts beyond its delivery: one comes before the
/// delivery, and one after.
async fn soon<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let answer = tokio::time::timeout(MARGIN / 2, statement).await;
    answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// Starts the workers. They deliver what any replica has written.
pub(crate) fn start(tasks: &Background<Notes>) {
    tasks.work("webhook", WORKERS, async |notes: Arc<Notes>| match &notes.webhook {
        Some(webhook) => webhook.deliver(&notes.database).await,
        None => Ok(false),
    });
}
