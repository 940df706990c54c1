//! The webhook: its requests, and what happens if the webhook, the service or the key fails.

use crate::{
    SERVICE,
    note_client::{NoteClient, note_id},
    webhook_setup::{
        count_outbox_rows, current_key, delivered_events, delivery_count, launch_with_webhook, tenant_with_receiver,
        wait_for_outbox_rows,
    },
};
use devstack::{
    AnswerRule, DEFAULT_TIMEOUT, Delivery, Receiver, RunningService, ScriptedAnswer, Signal, Tenant, eventually,
    free_port, post_json,
    reqwest::{Client, Method, StatusCode},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A value of `traceparent`, from the standard (W3C Trace Context).
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Starts the service with a receiver as its webhook.
async fn start_with_webhook<'a>(tenant: &'a Tenant, receiver: &Receiver) -> RunningService<'a> {
    RunningService::start(launch_with_webhook(tenant, receiver.address()), tenant).await
}

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
    receiver.script([AnswerRule::on(slow, ScriptedAnswer::Delay(Duration::from_millis(1500)))]);
    let running = start_with_webhook(&tenant, &receiver).await;
    let first = running.create_note("slow").await;
    delete(&running, &first).await;
    let other = running.create_note("another").await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 3).await;
    let created = time_of(&deliveries, "note.created", &first);
    let deleted = time_of(&deliveries, "note.deleted", &first);
    assert!(deleted - created >= Duration::from_millis(1500), "{:?}", deleted - created);
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

/// A note that a test created.
struct WrittenNote {
    id: String,
    /// `true` if the service has answered that the note is deleted.
    deleted: bool,
}

/// Creates notes and deletes every other one, until `end` or until the service is gone.
async fn write_notes(base_url: String, end: Instant) -> Vec<WrittenNote> {
    let client = Client::builder().no_proxy().build().expect("a client");
    let mut notes = Vec::new();
    while Instant::now() < end {
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
    let launch = || launch_with_webhook(&tenant, receiver.address()).env("APP_SECRETS__REFRESH_EVERY", "0s");
    let mut killed = RunningService::start(launch(), &tenant).await;
    let mut survivor = RunningService::start(launch(), &tenant).await;
    let end = Instant::now() + Duration::from_secs(4);
    let mut writers = Vec::new();
    for replica in [&killed, &survivor, &killed, &survivor] {
        writers.push(tokio::spawn(write_notes(replica.url(""), end)));
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
    let requests = receiver.requests();
    let tried: Vec<_> = (0..requests.len()).filter(|number| poison(&requests[*number].body)).collect();
    let follows = requests.iter().position(|request| request.json()["type"] == "note.deleted");
    assert!(
        tried.len() == 2 && Some(tried[1]) < follows,
        "the next event of the note waits for both attempts: {requests:?}"
    );
    let counts = [delivery_count(&running, "failed").await, delivery_count(&running, "set_aside").await];
    assert_eq!(counts, [2.0, 1.0]);
    let errors: Vec<_> = running.process.events().into_iter().filter(|event| event["level"] == "ERROR").collect();
    let event: String = {
        let mut admin = tenant.admin().await.unwrap();
        let row = "SELECT id::text FROM outbox WHERE set_aside_at IS NOT NULL AND last_error LIKE '%500'";
        sqlx::query_scalar(row).fetch_one(&mut admin).await.unwrap()
    };
    assert_eq!((errors.len(), errors[0]["fields"]["event.id"].as_str()), (1, Some(event.as_str())));

    // The way back that outbox.md describes.
    receiver.clear();
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let again = "UPDATE outbox SET set_aside_at = NULL, attempts = 0, blamed = 0, due_at = now() \
                 WHERE set_aside_at IS NOT NULL";
    sqlx::raw_sql(again).execute(&mut owner).await.unwrap();
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 3).await;
    assert_eq!(deliveries[2].header("idempotency-key"), event);
    wait_for_outbox_rows(&tenant, "true", 0).await;
}

#[tokio::test]
async fn an_old_event_with_many_attempts_is_set_aside_without_another_attempt() {
    let (tenant, receiver) = tenant_with_receiver("hook_old").await;
    // As if the process had crashed in each attempt: an attempt is counted before it is made.
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let insert = "INSERT INTO outbox (id, note_id, payload, attempts, created_at) VALUES
        (gen_random_uuid(), gen_random_uuid(), 'old, and often tried', 20, now() - interval '8 days'),
        (gen_random_uuid(), gen_random_uuid(), 'young, and often tried', 20, now() - interval '6 days'),
        (gen_random_uuid(), gen_random_uuid(), 'old, and less often tried', 19, now() - interval '8 days')";
    sqlx::raw_sql(insert).execute(&mut owner).await.unwrap();
    let running = start_with_webhook(&tenant, &receiver).await;
    receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    wait_for_outbox_rows(&tenant, "set_aside_at IS NULL", 0).await;
    assert_eq!(
        count_outbox_rows(&tenant, "payload = 'old, and often tried' AND last_error LIKE 'no attempt%'").await,
        1
    );
    assert_eq!(receiver.requests().len(), 2);
    assert_eq!([delivery_count(&running, "failed").await, delivery_count(&running, "set_aside").await], [0.0, 1.0]);
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

#[tokio::test]
async fn a_webhook_without_a_key_ends_with_78_and_names_the_missing_line() {
    let tenant = SERVICE.migrated("hook_keyless").await;
    let launch = SERVICE.launch(&tenant).env("APP_SERVICE__WEBHOOK_URL", "https://example.com/hook");
    let exited = launch.run();
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    for part in ["service.webhook_url", "[secrets.ids]", "webhook = "] {
        assert!(exited.stderr.contains(part), "{part} is missing in {}", exited.stderr);
    }
    // `check` needs no secrets manager to see it.
    let launch = SERVICE.launch(&tenant).args(["check"]).env("APP_SERVICE__WEBHOOK_URL", "https://example.com/hook");
    let exited = launch.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").run();
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    assert!(exited.stderr.contains("variable APP_SERVICE__WEBHOOK_URL (service.webhook_url)"), "{}", exited.stderr);
    // A key without a URL is allowed, and not used.
    tenant.put_random("webhook", "api_key").await.unwrap();
    let launch =
        SERVICE.launch(&tenant).args(["check", "--live"]).env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    assert_eq!(launch.run().code, Some(0));
}
