//! The webhook: its requests, their order, and events that are given up.

use crate::{
    SERVICE,
    note_client::{NoteClient, note_id},
    webhook_setup::{
        count_outbox_rows, current_key, delivered_events, delivery_count, launch_with_webhook, start_with_webhook,
        tenant_with_receiver, wait_for_outbox_rows,
    },
};
use devstack::{
    AnswerRule, Delivery, RunningService, ScriptedAnswer, eventually, post_json,
    reqwest::{Client, Method, StatusCode},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// A value of `traceparent`, from the standard (W3C Trace Context).
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Deletes a note.
async fn delete(running: &RunningService<'_>, path: &str) {
    let deleted = running.request(Method::DELETE, path).send().await.expect("an answer");
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_webhook_is_told_when_a_note_is_created_or_deleted() {
    let (tenant, receiver) = tenant_with_receiver("hook").await;
    let running = start_with_webhook(&tenant, &receiver).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let post = post_json(&client, running.url("/v1/notes"), "{\"body\": \"Grüße\"}");
    let answer = post.header("traceparent", PARENT).header("tracestate", "a=b").send().await.unwrap();
    let note: Value = answer.json().await.unwrap();
    let path = format!("/v1/notes/{}", note["id"].as_str().unwrap());
    delete(&running, &path).await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    let (created, deleted) = (&deliveries[0], &deliveries[1]);
    assert_eq!((created.json()["type"].as_str(), &created.json()["note"]), (Some("note.created"), &note));
    assert_eq!(deleted.json()["type"], "note.deleted");
    assert_eq!(deleted.json()["note"], json!({ "id": note["id"] }));
    for delivery in &deliveries {
        assert_eq!((&delivery.method, delivery.path.as_str()), (&Method::POST, "/hook"));
        assert!(delivery.bears(&current_key(&tenant).await));
        assert_eq!(delivery.header("idempotency-key"), delivery.json()["id"]);
        assert_eq!(delivery.header("content-type"), "application/json");
    }
    assert_eq!((created.header("traceparent"), created.header("tracestate")), (PARENT, "a=b"));
    assert!(deleted.header("traceparent").starts_with("00-"), "without one, the trace begins with the request");
    wait_for_outbox_rows(&tenant, "true", 0).await;
    assert_eq!((delivery_count(&running, "delivered").await, delivery_count(&running, "failed").await), (2.0, 0.0));
}

#[tokio::test]
async fn an_event_waits_only_for_earlier_events_of_its_note() {
    let (tenant, receiver) = tenant_with_receiver("hook_order").await;
    let slow = |body: &[u8]| String::from_utf8_lossy(body).contains("slow");
    let delay = Duration::from_secs(5);
    receiver.script([AnswerRule::on(slow, ScriptedAnswer::Delay(delay))]);
    let running = start_with_webhook(&tenant, &receiver).await;
    let first = running.create_note("slow").await;
    delete(&running, &first).await;
    let other = running.create_note("another").await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 3).await;
    let created = time_of(&deliveries, "note.created", &first);
    let deleted = time_of(&deliveries, "note.deleted", &first);
    assert!(deleted - created >= delay, "{:?}", deleted - created);
    assert!(time_of(&deliveries, "note.created", &other) < deleted);
}

/// Returns the time at which an event of a note came.
fn time_of(deliveries: &[Delivery], kind: &str, path: &str) -> Instant {
    let event = (kind.to_owned(), note_id(path));
    let position = delivered_events(deliveries).iter().position(|delivered| *delivered == event);
    deliveries[position.expect("the event was delivered")].at
}

#[tokio::test]
async fn a_change_that_fails_is_not_told_to_the_webhook() {
    let (tenant, receiver) = tenant_with_receiver("hook_not").await;
    let running = start_with_webhook(&tenant, &receiver).await;
    assert_eq!(running.post_json("/v1/notes", "{\"body\": \"\"}").await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let nobody = format!("/v1/notes/{}", uuid::Uuid::max());
    let deleted = running.request(Method::DELETE, &nobody).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NOT_FOUND);
    // If the event cannot be written, its note is not created.
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    sqlx::raw_sql("ALTER TABLE outbox ADD CHECK (payload !~ 'unlucky')").execute(&mut owner).await.unwrap();
    assert_eq!(
        running.post_json("/v1/notes", "{\"body\": \"unlucky\"}").await.status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let page: Value = running.get("/v1/notes").await.json().await.unwrap();
    assert_eq!(page["notes"], json!([]));
    let note = running.create_note("a note").await;
    let deliveries = receiver.wait_until(|deliveries| !deliveries.is_empty()).await;
    assert_eq!(delivered_events(&deliveries), [("note.created".to_owned(), note_id(&note))]);
}

#[tokio::test]
async fn without_a_webhook_no_event_is_written() {
    let tenant = SERVICE.migrated("hookless").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    delete(&running, &note).await;
    assert_eq!(count_outbox_rows(&tenant, "true").await, 0);
    assert_eq!(delivery_count(&running, "delivered").await, 0.0, "the series exists from the start");
}

#[tokio::test]
async fn an_event_that_the_webhook_cannot_process_is_set_aside_and_the_others_pass() {
    let (tenant, receiver) = tenant_with_receiver("hook_poison").await;
    let poison = |body: &[u8]| String::from_utf8_lossy(body).contains("poison");
    receiver.script([AnswerRule::on(poison, ScriptedAnswer::Status(500))]);
    let launch = launch_with_webhook(&tenant, receiver.address()).env("APP_SERVICE__WEBHOOK_ATTEMPTS", "2");
    let running = RunningService::start(launch, &tenant).await;
    let bad = running.create_note("poison").await;
    delete(&running, &bad).await;
    let good = running.create_note("a good note").await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    let wanted = [("note.created", &good), ("note.deleted", &bad)].map(|(kind, note)| (kind.to_owned(), note_id(note)));
    assert_eq!(BTreeSet::from_iter(delivered_events(&deliveries)), BTreeSet::from(wanted));
    wait_for_outbox_rows(&tenant, "set_aside_at IS NOT NULL AND last_error LIKE '%500'", 1).await;
    eventually("its count", async || delivery_count(&running, "set_aside").await == 1.0).await;
}

#[tokio::test]
async fn a_webhook_without_a_key_ends_with_78_and_names_the_missing_line() {
    let tenant = SERVICE.migrated("hook_keyless").await;
    let exited = SERVICE.launch(&tenant).env("APP_SERVICE__WEBHOOK_URL", "https://example.com/hook").run();
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    for part in ["service.webhook_url", "[secrets.ids]", "webhook = "] {
        assert!(exited.stderr.contains(part), "{part} is missing in {}", exited.stderr);
    }
}
