//! Events that are given up, and their way back.

use crate::{
    note_client::NoteClient,
    webhook_setup::{
        count_outbox_rows, delivery_count, launch_with_webhook, start_with_webhook, tenant_with_receiver,
        wait_for_outbox_rows,
    },
};
use devstack::{AnswerRule, RunningService, ScriptedAnswer, reqwest::Method};

#[tokio::test]
async fn an_event_is_set_aside_after_all_of_its_attempts_and_can_be_put_back() {
    let (tenant, receiver) = tenant_with_receiver("hook_aside").await;
    let poison = |body: &[u8]| String::from_utf8_lossy(body).contains("poison");
    receiver.script([AnswerRule::on(poison, ScriptedAnswer::Status(500))]);
    let launch = launch_with_webhook(&tenant, receiver.address()).env("APP_SERVICE__WEBHOOK_ATTEMPTS", "2");
    let running = RunningService::start(launch, &tenant).await;
    let bad = running.create_note("poison").await;
    running.request(Method::DELETE, &bad).send().await.unwrap();
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
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
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    assert_eq!(deliveries[1].header("idempotency-key"), event);
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
