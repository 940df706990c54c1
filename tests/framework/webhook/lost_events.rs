//! No event of the webhook is lost: not with a replica, not in an outage, not in a stop.

use crate::{
    SERVICE,
    note_client::{NoteClient, note_id},
    webhook_setup::{
        count_outbox_rows, current_key, delivered_events, delivery_count, launch_with_webhook, start_with_webhook,
        tenant_with_receiver, wait_for_outbox_rows,
    },
};
use devstack::{
    AnswerRule, DEFAULT_TIMEOUT, Delivery, Receiver, RunningService, ScriptedAnswer, Signal, eventually, free_port,
    post_json,
    reqwest::{Client, StatusCode},
};
use serde_json::Value;
use std::{collections::BTreeSet, net::SocketAddr, time::Duration};
use tokio::sync::watch;

/// A note that a test created.
struct WrittenNote {
    id: String,
    /// `true` if the service has answered that the note is deleted.
    deleted: bool,
}

/// Creates notes and deletes every other one, until it is told to stop or until the service is gone.
async fn write_notes(base_url: String, stopped: watch::Receiver<bool>) -> Vec<WrittenNote> {
    let client = Client::builder().no_proxy().build().expect("a client");
    let mut notes = Vec::new();
    while !*stopped.borrow() {
        let post = post_json(&client, format!("{base_url}/v1/notes"), "{\"body\": \"a note\"}");
        let Ok(created) = post.send().await else { break };
        assert_eq!(created.status(), StatusCode::CREATED);
        let path = created.headers()["location"].to_str().expect("a path").to_owned();
        let mut note = WrittenNote { id: note_id(&path), deleted: false };
        let mut is_gone = false;
        if notes.len() % 2 == 0 {
            match client.delete(format!("{base_url}{path}")).send().await {
                Ok(answer) => note.deleted = answer.status() == StatusCode::NO_CONTENT,
                Err(_) => is_gone = true,
            }
        }
        notes.push(note);
        if is_gone {
            break;
        }
    }
    notes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_and_a_killed_replica_lose_no_event() {
    let (tenant, receiver) = tenant_with_receiver("hook_killed").await;
    // It takes part in the rotation: for a while it accepts the old key and the new one.
    receiver.accept_keys_of(&tenant, "webhook");
    receiver.script([AnswerRule::all(ScriptedAnswer::Delay(Duration::from_millis(20)))]);
    let launch = || launch_with_webhook(&tenant, receiver.address());
    let mut killed = RunningService::start(launch(), &tenant).await;
    let mut survivor = RunningService::start(launch(), &tenant).await;
    let (stop, stopped) = watch::channel(false);
    let mut writers = Vec::new();
    for replica in [&killed, &survivor, &killed, &survivor] {
        writers.push(tokio::spawn(write_notes(replica.url(""), stopped.clone())));
    }

    receiver.wait_until(|deliveries| deliveries.len() >= 20).await;
    let old_key = current_key(&tenant).await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    let new_key = current_key(&tenant).await;
    assert_eq!(survivor.reload().await["outcome"], "published");
    killed.process.signal(Signal::HUP);
    killed.wait_until("the new key", |status| status["generation"] == 2).await;
    let with_new_key = |deliveries: &[Delivery]| deliveries.iter().filter(|one| one.bears(&new_key)).count();
    receiver.wait_until(|deliveries| with_new_key(deliveries) >= 20).await;
    killed.process.signal(Signal::KILL);
    // From now on it rejects the old key. A replica that still has it learns that from a 401.
    receiver.accept([new_key]);
    let before = receiver.deliveries().len();
    receiver.wait_until(|deliveries| deliveries.len() >= before + 40).await;
    stop.send_replace(true);

    let mut notes = Vec::new();
    for writer in writers {
        notes.extend(writer.await.unwrap());
    }
    assert!(notes.len() > 40, "{} notes are not many", notes.len());
    wait_for_outbox_rows(&tenant, "true", 0).await;
    assert_eq!(delivery_count(&survivor, "set_aside").await, 0.0);

    let deliveries = receiver.deliveries();
    assert!(deliveries.iter().any(|one| one.bears(&old_key)) && deliveries.iter().any(|one| !one.bears(&old_key)));
    let events = delivered_events(&deliveries);
    for WrittenNote { id, deleted } in &notes {
        let is = |event: &(String, String), kind: &str| event.0 == kind && event.1 == *id;
        let created = events.iter().rposition(|event| is(event, "note.created"));
        let last_created = created.unwrap_or_else(|| panic!("no event says that {id} was created"));
        match events.iter().position(|event| is(event, "note.deleted")) {
            Some(first_deleted) => assert!(last_created < first_deleted, "{id} was created after it was deleted"),
            None => assert!(!deleted, "no event says that {id} was deleted"),
        }
    }
    let distinct: BTreeSet<_> = deliveries.iter().map(|one| one.header("idempotency-key").to_owned()).collect();
    let duplicates = deliveries.len() - distinct.len();
    assert!(duplicates <= 4, "{duplicates} came twice: more than the killed replica's four workers had in flight");
    drop(killed);
}

#[tokio::test]
async fn an_event_survives_an_outage_of_the_webhook_and_a_restart() {
    let tenant = SERVICE.migrated("hook_away").await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let launch = || launch_with_webhook(&tenant, address).env("APP_SERVICE__WEBHOOK_ATTEMPTS", "1");
    let running = RunningService::start(launch(), &tenant).await;
    let note = running.create_note("a note").await;
    wait_for_outbox_rows(&tenant, "attempts > 1 AND claim IS NULL AND set_aside_at IS NULL", 1).await;
    assert!(delivery_count(&running, "failed").await >= 1.0);
    let mut process = running.process;
    process.signal(Signal::TERM);
    assert_eq!(process.exited(DEFAULT_TIMEOUT).await.code, Some(0));

    let _running = RunningService::start(launch(), &tenant).await;
    let receiver = Receiver::at(address).unwrap();
    receiver.accept([current_key(&tenant).await]);
    let deliveries = receiver.wait_until(|deliveries| !deliveries.is_empty()).await;
    assert_eq!(delivered_events(&deliveries), [("note.created".to_owned(), note_id(&note))]);
}

#[tokio::test]
async fn workers_give_up_on_a_database_that_does_not_answer_and_try_again() {
    let (tenant, receiver) = tenant_with_receiver("hook_silent").await;
    let running = start_with_webhook(&tenant, &receiver).await;
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE outbox").execute(&mut admin).await.unwrap();
    let fails = |event: &Value| event["fields"]["message"] == "background work fails; trying again";
    eventually("a worker that gives up", async || running.process.events().iter().any(fails)).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut admin).await.unwrap();
    running.create_note("a note").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
}

#[tokio::test]
async fn a_stop_finishes_a_delivery_in_flight() {
    let (tenant, receiver) = tenant_with_receiver("hook_stop").await;
    receiver.script([AnswerRule::all(ScriptedAnswer::Delay(Duration::from_millis(1000)))]);
    let mut running = start_with_webhook(&tenant, &receiver).await;
    running.create_note("a note").await;
    eventually("a request to the webhook", async || !receiver.requests().is_empty()).await;
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert_eq!(receiver.deliveries().len(), 1);
    assert_eq!(count_outbox_rows(&tenant, "true").await, 0);
}
