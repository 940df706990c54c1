//! The webhook: what it is told, with which key, and what happens when it, the service or the key is not there.

use crate::{
    SERVICE,
    client::Notes,
    hook::{counted, hooked, id, key, rows, telling, told, until_rows},
};
use devstack::{
    AnswerRule, DEFAULT_TIMEOUT, Receiver, RunningService, ScriptedAnswer, Signal, free_port,
    reqwest::{Method, StatusCode},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn delete(running: &RunningService<'_>, path: &str) {
    let deleted = running.request(Method::DELETE, path).send().await.expect("an answer");
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_webhook_hears_of_notes_that_are_created_and_deleted() {
    let (tenant, receiver) = hooked("hook").await;
    let running = RunningService::start(telling(receiver.address(), SERVICE.launch(&tenant), &tenant), &tenant).await;
    let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let post = post.header("traceparent", PARENT).header("tracestate", "a=b").body("{\"body\": \"Grüße\"}");
    let note: serde_json::Value = post.send().await.unwrap().json().await.unwrap();
    let path = format!("/v1/notes/{}", note["id"].as_str().unwrap());
    delete(&running, &path).await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    let (created, deleted) = (&deliveries[0], &deliveries[1]);
    assert_eq!((created.json()["type"].as_str(), &created.json()["note"]), (Some("note.created"), &note));
    assert_eq!(deleted.json()["type"], "note.deleted");
    assert_eq!(deleted.json()["note"], serde_json::json!({ "id": note["id"] }));
    for delivery in &deliveries {
        assert_eq!((&delivery.method, delivery.path.as_str()), (&Method::POST, "/hook"));
        assert!(delivery.bears(&key(&tenant).await));
        assert_eq!(delivery.header("idempotency-key"), delivery.json()["id"]);
        assert_eq!(delivery.header("content-type"), "application/json");
    }
    assert_eq!((created.header("traceparent"), created.header("tracestate")), (PARENT, "a=b"));
    assert_eq!(deleted.header("traceparent"), "");
    until_rows(&tenant, "true", 0).await;
    assert_eq!((counted(&running, "delivered").await, counted(&running, "failed").await), (2.0, 0.0));
}

#[tokio::test]
async fn an_event_waits_for_those_before_it_of_its_note_and_for_no_other() {
    let (tenant, receiver) = hooked("hook_order").await;
    let slow = |body: &[u8]| String::from_utf8_lossy(body).contains("slow");
    receiver.script([AnswerRule::on(slow, ScriptedAnswer::Delay(Duration::from_millis(1500)))]);
    let running = RunningService::start(telling(receiver.address(), SERVICE.launch(&tenant), &tenant), &tenant).await;
    let first = running.create("slow").await;
    delete(&running, &first).await;
    let other = running.create("another").await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 3).await;
    let of = |kind: &str, path: &String| {
        let wanted = (kind.to_owned(), id(path));
        told(&deliveries).iter().position(|event| *event == wanted).map(|n| deliveries[n].at).expect("it was told")
    };
    let (created, deleted) = (of("note.created", &first), of("note.deleted", &first));
    assert!(deleted - created >= Duration::from_millis(1500), "{:?}", deleted - created);
    assert!(of("note.created", &other) < deleted);
}

#[tokio::test]
async fn what_did_not_happen_is_not_told() {
    let (tenant, receiver) = hooked("hook_not").await;
    let running = RunningService::start(telling(receiver.address(), SERVICE.launch(&tenant), &tenant), &tenant).await;
    assert_eq!(running.post("{\"body\": \"\"}").await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let nobody = format!("/v1/notes/{}", uuid::Uuid::max());
    let deleted = running.request(Method::DELETE, &nobody).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NOT_FOUND);
    // An event that cannot be written down takes its note with it.
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    sqlx::raw_sql("ALTER TABLE outbox ADD CHECK (payload !~ 'unlucky')").execute(&mut owner).await.unwrap();
    assert_eq!(running.post("{\"body\": \"unlucky\"}").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let page: serde_json::Value = running.get("/v1/notes").await.json().await.unwrap();
    assert_eq!(page["notes"], serde_json::json!([]));
    let note = running.create("a note").await;
    let deliveries = receiver.wait_until(|deliveries| !deliveries.is_empty()).await;
    assert_eq!(told(&deliveries), [("note.created".to_owned(), id(&note))]);
}

#[tokio::test]
async fn without_a_webhook_nothing_is_written_down() {
    let tenant = SERVICE.migrated("hookless").await;
    let running = SERVICE.start(&tenant).await;
    let note = running.create("a note").await;
    delete(&running, &note).await;
    assert_eq!(rows(&tenant, "true").await, 0);
    assert_eq!(counted(&running, "delivered").await, 0.0, "the series is there from the start");
}

/// Creates notes and deletes every other one, until the service is gone or it is enough.
async fn write(base: String, enough: Instant) -> Vec<(String, bool)> {
    let client = devstack::reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut notes = Vec::new();
    while Instant::now() < enough {
        let post = client.post(format!("{base}/v1/notes")).json(&serde_json::json!({ "body": "a note" }));
        let Ok(created) = post.send().await else { break };
        assert_eq!(created.status(), StatusCode::CREATED);
        let path = created.headers()["location"].to_str().expect("a path").to_owned();
        let deleted = notes.len() % 2 == 0
            && if let Ok(answer) = client.delete(format!("{base}{path}")).send().await {
                answer.status() == StatusCode::NO_CONTENT
            } else {
                notes.push((id(&path), false));
                break;
            };
        notes.push((id(&path), deleted));
    }
    notes
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_over_a_rotation_with_two_replicas_one_of_them_killed() {
    let (tenant, receiver) = hooked("hook_killed").await;
    // As one that takes part in the rotation.
    receiver.accept_keys_of(&tenant, "webhook");
    receiver.script([AnswerRule::all(ScriptedAnswer::Delay(Duration::from_millis(20)))]);
    let launch =
        || telling(receiver.address(), SERVICE.launch(&tenant), &tenant).env("APP_SECRETS__REFRESH_EVERY", "0s");
    let mut killed = RunningService::start(launch(), &tenant).await;
    let mut stays = RunningService::start(launch(), &tenant).await;
    let enough = Instant::now() + Duration::from_secs(4);
    let writers: Vec<_> = [&killed, &stays, &killed, &stays]
        .map(|running| tokio::spawn(write(format!("http://{}", running.at.public), enough)))
        .into();

    tokio::time::sleep(Duration::from_secs(1)).await;
    let old = key(&tenant).await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    assert_eq!(stays.reload().await["outcome"], "published");
    killed.process.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_secs(1)).await;
    killed.process.signal(Signal::KILL);
    // From now on the old key is refused; who has missed the rotation is told so by a 401.
    receiver.accept([key(&tenant).await]);

    let mut notes = Vec::new();
    for writer in writers {
        notes.extend(writer.await.unwrap());
    }
    assert!(notes.len() > 40, "{} notes are not many", notes.len());
    until_rows(&tenant, "true", 0).await;
    assert_eq!(counted(&stays, "set_aside").await, 0.0);

    let deliveries = receiver.deliveries();
    assert!(deliveries.iter().any(|one| one.bears(&old)) && deliveries.iter().any(|one| !one.bears(&old)));
    let told = told(&deliveries);
    let last = |kind: &str, note: &String| told.iter().rposition(|(k, n)| k == kind && n == note);
    let first = |kind: &str, note: &String| told.iter().position(|(k, n)| k == kind && n == note);
    for (note, deleted) in &notes {
        let created = last("note.created", note).unwrap_or_else(|| panic!("{note} was never told"));
        match first("note.deleted", note) {
            Some(deleted) => assert!(created < deleted, "{note} was created after it was deleted"),
            None => assert!(!deleted, "nobody was told that {note} is deleted"),
        }
    }
    let distinct: BTreeSet<_> = deliveries.iter().map(|one| one.header("idempotency-key").to_owned()).collect();
    let twice = deliveries.len() - distinct.len();
    assert!(twice <= 4, "{twice} came twice, and only what was under way in the killed one may");
    drop(killed);
}

#[tokio::test]
async fn an_event_outlives_a_webhook_that_is_away_and_a_restart() {
    let tenant = SERVICE.migrated("hook_away").await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let launch = || telling(address, SERVICE.launch(&tenant), &tenant).env("APP_SERVICE__WEBHOOK_ATTEMPTS", "1");
    let running = RunningService::start(launch(), &tenant).await;
    let note = running.create("a note").await;
    until_rows(&tenant, "attempts > 1 AND claim IS NULL AND set_aside_at IS NULL", 1).await;
    assert!(counted(&running, "failed").await >= 1.0);
    let mut process = running.process;
    process.signal(Signal::TERM);
    assert_eq!(process.exited(DEFAULT_TIMEOUT).await.code, Some(0));

    let _running = RunningService::start(launch(), &tenant).await;
    let receiver = Receiver::at(address).unwrap();
    receiver.accept([key(&tenant).await]);
    let deliveries = receiver.wait_until(|deliveries| !deliveries.is_empty()).await;
    assert_eq!(told(&deliveries), [("note.created".to_owned(), id(&note))]);
}

#[tokio::test]
async fn a_poison_message_is_set_aside_and_the_others_pass() {
    let (tenant, receiver) = hooked("hook_poison").await;
    let poison = |body: &[u8]| String::from_utf8_lossy(body).contains("poison");
    receiver.script([AnswerRule::on(poison, ScriptedAnswer::Status(500))]);
    let launch =
        telling(receiver.address(), SERVICE.launch(&tenant), &tenant).env("APP_SERVICE__WEBHOOK_ATTEMPTS", "2");
    let running = RunningService::start(launch, &tenant).await;
    let bad = running.create("poison").await;
    delete(&running, &bad).await;
    let good = running.create("a good note").await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    let wanted = [("note.created", &good), ("note.deleted", &bad)].map(|(kind, note)| (kind.to_owned(), id(note)));
    assert_eq!(BTreeSet::from_iter(told(&deliveries)), BTreeSet::from(wanted));
    let requests = receiver.requests();
    let tried: Vec<_> = (0..requests.len()).filter(|number| poison(&requests[*number].body)).collect();
    let follows = requests.iter().position(|request| request.json()["type"] == "note.deleted");
    assert!(tried.len() == 2 && Some(tried[1]) < follows, "what follows the poison waits for it: {requests:?}");
    let counts = [counted(&running, "failed").await, counted(&running, "set_aside").await];
    assert_eq!(counts, [2.0, 1.0]);
    let errors: Vec<_> = running.process.events().into_iter().filter(|event| event["level"] == "ERROR").collect();
    let event: String = {
        let mut admin = tenant.admin().await.unwrap();
        let row = "SELECT id::text FROM outbox WHERE set_aside_at IS NOT NULL AND last_error LIKE '%500'";
        sqlx::query_scalar(row).fetch_one(&mut admin).await.unwrap()
    };
    assert_eq!((errors.len(), errors[0]["fields"]["event.id"].as_str()), (1, Some(event.as_str())));

    // As outbox.md says.
    receiver.clear();
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let again = "UPDATE outbox SET set_aside_at = NULL, attempts = 0, blamed = 0, due_at = now() \
                 WHERE set_aside_at IS NOT NULL";
    sqlx::raw_sql(again).execute(&mut owner).await.unwrap();
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 3).await;
    assert_eq!(deliveries[2].header("idempotency-key"), event);
    until_rows(&tenant, "true", 0).await;
}

#[tokio::test]
async fn an_event_that_is_old_and_was_often_tried_is_set_aside_before_it_is_tried_again() {
    let (tenant, receiver) = hooked("hook_old").await;
    // As if each attempt had taken its process down.
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let insert = "INSERT INTO outbox (id, note_id, payload, attempts, created_at) VALUES
        (gen_random_uuid(), gen_random_uuid(), 'old, and often tried', 20, now() - interval '8 days'),
        (gen_random_uuid(), gen_random_uuid(), 'young, and often tried', 20, now() - interval '6 days'),
        (gen_random_uuid(), gen_random_uuid(), 'old, and less often tried', 19, now() - interval '8 days')";
    sqlx::raw_sql(insert).execute(&mut owner).await.unwrap();
    let running = RunningService::start(telling(receiver.address(), SERVICE.launch(&tenant), &tenant), &tenant).await;
    receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    until_rows(&tenant, "set_aside_at IS NULL", 0).await;
    assert_eq!(rows(&tenant, "payload = 'old, and often tried' AND last_error LIKE 'no attempt%'").await, 1);
    assert_eq!(receiver.requests().len(), 2);
    assert_eq!([counted(&running, "failed").await, counted(&running, "set_aside").await], [0.0, 1.0]);
}

#[tokio::test]
async fn workers_do_not_wait_for_ever_for_a_database_that_is_silent() {
    let (tenant, receiver) = hooked("hook_silent").await;
    let running = RunningService::start(telling(receiver.address(), SERVICE.launch(&tenant), &tenant), &tenant).await;
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE outbox").execute(&mut admin).await.unwrap();
    let start = Instant::now();
    let fails = |event: &serde_json::Value| event["fields"]["message"] == "background work fails; it is tried again";
    while !running.process.events().iter().any(fails) {
        assert!(start.elapsed() < DEFAULT_TIMEOUT, "nobody gave up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut admin).await.unwrap();
    running.create("a note").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
}

#[tokio::test]
async fn a_delivery_that_is_under_way_at_a_stop_is_finished() {
    let (tenant, receiver) = hooked("hook_stop").await;
    receiver.script([AnswerRule::all(ScriptedAnswer::Delay(Duration::from_millis(1000)))]);
    let mut running =
        RunningService::start(telling(receiver.address(), SERVICE.launch(&tenant), &tenant), &tenant).await;
    running.create("a note").await;
    let start = Instant::now();
    while receiver.requests().is_empty() {
        assert!(start.elapsed() < DEFAULT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert_eq!(receiver.deliveries().len(), 1);
    assert_eq!(rows(&tenant, "true").await, 0);
}

#[tokio::test]
async fn a_webhook_without_a_key_ends_with_78_and_says_which_line_is_missing() {
    let tenant = SERVICE.migrated("hook_keyless").await;
    let launch = SERVICE.launch(&tenant).env("APP_SERVICE__WEBHOOK_URL", "https://example.com/hook");
    let exited = launch.run();
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    for part in ["service.webhook_url", "[secrets.ids]", "webhook = "] {
        assert!(exited.stderr.contains(part), "{part} is missing in {}", exited.stderr);
    }
    // A key without a URL is only not used.
    tenant.put_random("webhook", "api_key").await.unwrap();
    let launch =
        SERVICE.launch(&tenant).args(["check", "--live"]).env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    assert_eq!(launch.run().code, Some(0));
}
