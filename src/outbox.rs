//! Tells a webhook of notes that were created and deleted, at least once each, and for each note in order.
//!
//! ```text
//! create, delete ─► outbox, in the same transaction ─► claim ─► webhook ─► done: its row is deleted
//!                                  ▲                              └─► failed: due again later, or set aside
//!                                  └── a claim whose process died runs out ──┘
//! ```

use crate::{Notes, Settings};
use axum::{
    body::Bytes,
    http::{Request, StatusCode, header::CONTENT_TYPE},
};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;
use vestibule::{Api, ApiClient, Background, Build, BuildError, Counter, Database, Service, TraceContext};

/// How many deliveries are under way at a time.
const WORKERS: usize = 4;

/// How much longer a claim lasts than its delivery may take: for telling the database what came of it.
const MARGIN: Duration = Duration::from_secs(10);

/// The longest pause between attempts at an event.
const LONGEST: Duration = Duration::from_secs(600);

/// What the webhook hears of.
#[derive(Serialize)]
#[serde(tag = "type", content = "note")]
pub(crate) enum Event<'a> {
    #[serde(rename = "note.created")]
    Created(&'a crate::notes::Note),
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
    delivered: Counter,
    failed: Counter,
    set_aside: Counter,
}

impl Webhook {
    /// `None`: no URL is configured.
    pub(crate) async fn build(cx: &Build<'_, Notes>) -> Result<Option<Self>, BuildError> {
        let Settings { webhook_url, webhook_timeout, webhook_attempts, .. } = cx.settings;
        let count = |outcome| {
            let help = "Attempts at deliveries to the webhook that succeeded or failed, and events given up";
            cx.counter("notes_webhook_deliveries", help, &[("outcome", outcome)])
        };
        let (delivered, failed, set_aside) = (count("delivered")?, count("failed")?, count("set_aside")?);
        let Some(url) = webhook_url.clone() else { return Ok(None) };
        let key = cx.secrets.webhook.as_ref().ok_or_else(|| {
            let line = format!(
                "its key beside it: add webhook = \"{}/webhook\", or the id that the key has at the manager, to \
                 [secrets.ids]",
                Notes::APP.name
            );
            BuildError::setting("service.webhook_url", &line)
        })?;
        let api = Api { timeout: *webhook_timeout, ..Api::at(url) };
        let (client, timeout) = (cx.client(key, &api).await?, *webhook_timeout);
        Ok(Some(Self { client, timeout, attempts: webhook_attempts.get().into(), delivered, failed, set_aside }))
    }

    /// Delivers one event that is due. `false`: there is none.
    async fn deliver(&self, database: &Database) -> Result<bool, sqlx::Error> {
        let Some(claimed) = Claimed::next(self.timeout + MARGIN, database).await? else { return Ok(false) };
        match self.send(&claimed).await {
            Ok(()) => {
                self.delivered.increment();
                claimed.done(database).await?;
            }
            Err(error) if claimed.attempts < self.attempts => {
                self.failed.increment();
                tracing::debug!(event.id = %claimed.id, attempts = claimed.attempts, error, "a delivery failed");
                claimed.failed(&error, pause(claimed.attempts), database).await?;
            }
            Err(error) => {
                self.failed.increment();
                if claimed.set_aside(&error, database).await? {
                    self.set_aside.increment();
                    let (event, attempts) = (claimed.id, claimed.attempts);
                    tracing::error!(event.id = %event, attempts, error, "an event for the webhook was set aside");
                }
            }
        }
        Ok(true)
    }

    async fn send(&self, claimed: &Claimed) -> Result<(), String> {
        let mut request = Request::post("/")
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", claimed.id.to_string())
            .body(Bytes::from(claimed.payload.clone()))
            .expect("a UUID can stand in a header");
        TraceContext::parse(claimed.traceparent.as_deref(), claimed.tracestate.as_deref())
            .put_on(request.headers_mut());
        match self.client.send(request).await.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(StatusCode::UNAUTHORIZED) => Err("401: the webhook refuses the key".into()),
            Ok(status) => Err(format!("the webhook answered {}", status.as_u16())),
            Err(error) => Err(error.to_string()),
        }
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
    claim: Uuid,
}

impl Claimed {
    /// Claims what has been due for longest, of those events that no earlier one of the same note stands before.
    async fn next(lasts: Duration, database: &Database) -> Result<Option<Self>, sqlx::Error> {
        sqlx::query_as(
            "UPDATE outbox SET claim = $1, attempts = attempts + 1, due_at = now() + make_interval(secs => $2)
             WHERE position = (
                 SELECT position FROM outbox AS next
                 WHERE set_aside_at IS NULL AND due_at <= now() AND NOT EXISTS (
                     SELECT FROM outbox AS earlier
                     WHERE earlier.note_id = next.note_id AND earlier.position < next.position
                       AND earlier.set_aside_at IS NULL)
                 ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING position, id, payload, traceparent, tracestate, attempts, claim",
        )
        .bind(Uuid::new_v4())
        .bind(lasts.as_secs_f64())
        .fetch_optional(database)
        .await
    }

    async fn done(&self, database: &Database) -> Result<(), sqlx::Error> {
        let delete = sqlx::query("DELETE FROM outbox WHERE position = $1 AND claim = $2");
        delete.bind(self.position).bind(self.claim).execute(database).await?;
        Ok(())
    }

    /// Due again after this pause, and what waits behind it no earlier, so that nobody looks at it in vain.
    async fn failed(&self, error: &str, pause: Duration, database: &Database) -> Result<(), sqlx::Error> {
        let update = sqlx::query(
            "WITH failed AS (
                 UPDATE outbox SET claim = NULL, last_error = $3, due_at = now() + make_interval(secs => $4)
                 WHERE position = $1 AND claim = $2 RETURNING position, note_id, due_at)
             UPDATE outbox AS later SET due_at = failed.due_at FROM failed
             WHERE later.note_id = failed.note_id AND later.position > failed.position
               AND later.set_aside_at IS NULL",
        );
        let update = update.bind(self.position).bind(self.claim).bind(error).bind(pause.as_secs_f64());
        update.execute(database).await?;
        Ok(())
    }

    /// `false`: it was not ours any more.
    async fn set_aside(&self, error: &str, database: &Database) -> Result<bool, sqlx::Error> {
        let update = sqlx::query(
            "UPDATE outbox SET claim = NULL, last_error = $3, set_aside_at = now()
             WHERE position = $1 AND claim = $2",
        );
        let updated = update.bind(self.position).bind(self.claim).bind(error).execute(database).await?;
        Ok(updated.rows_affected() > 0)
    }
}

/// Starts the workers. They deliver what any replica has written.
pub(crate) fn start(tasks: &Background<Notes>) {
    tasks.work("webhook", WORKERS, async |notes: Arc<Notes>| match &notes.webhook {
        Some(webhook) => webhook.deliver(&notes.database).await,
        None => Ok(false),
    });
}

/// After so many attempts: 1 s, doubling, up to ten minutes, give or take a fifth.
fn pause(attempts: i32) -> Duration {
    let doubled = Duration::from_secs(1 << (attempts - 1).clamp(0, 20));
    doubled.min(LONGEST).mul_f64(0.8 + 0.4 * fastrand::f64())
}
