//! The webhook of the example as a test of the framework: workers, URLs of API clients, and answers that do not come.

mod lost_events;
mod rejected_key;
mod set_aside;
mod tls;

use crate::{
    SERVICE,
    note_client::{NoteClient, note_id},
    support::{log_events::events_that_say, time_waits::stays},
    webhook_setup::{
        delivered_events, delivery_count, launch_with_webhook, tenant_with_receiver, wait_for_outbox_rows,
    },
};
use devstack::{
    AnswerRule, DEFAULT_TIMEOUT, Delivery, RunningService, ScriptedAnswer, Signal, eventually, eventually_within,
    reqwest::{Method, StatusCode},
};
use std::{collections::BTreeSet, time::Duration};

/// Returns the ids of the notes in the deliveries.
fn notes_of(deliveries: &[Delivery]) -> BTreeSet<String> {
    delivered_events(deliveries).into_iter().map(|(_, note)| note).collect()
}

#[tokio::test]
async fn deliveries_that_hang_or_break_delay_no_others() {
    let (tenant, receiver) = tenant_with_receiver("hook_hangs").await;
    let on = |text: &'static str| move |body: &[u8]| String::from_utf8_lossy(body).contains(text);
    receiver.script([
        AnswerRule::on(on("hangs"), ScriptedAnswer::BlackHole),
        AnswerRule::on(on("breaks"), ScriptedAnswer::Reset),
    ]);
    let launch = launch_with_webhook(&tenant, receiver.address()).env("APP_SERVICE__WEBHOOK_TIMEOUT", "1s");
    let running = RunningService::start(launch, &tenant).await;
    let (hangs, breaks) = (running.create_note("hangs").await, running.create_note("breaks").await);
    let mut others = BTreeSet::new();
    for number in 0..10 {
        others.insert(note_id(&running.create_note(&number.to_string()).await));
    }
    receiver.wait_until(|deliveries| notes_of(deliveries) == others).await;
    wait_for_outbox_rows(&tenant, "last_error LIKE 'no answer came within 1s'", 1).await;
    wait_for_outbox_rows(&tenant, "last_error LIKE 'the connection to % broke: %'", 1).await;
    receiver.clear();
    others.extend([note_id(&hangs), note_id(&breaks)]);
    receiver.wait_until(|deliveries| notes_of(deliveries) == others).await;
    assert_eq!(delivery_count(&running, "set_aside").await, 0.0);
}

#[tokio::test]
async fn what_a_request_brings_while_a_stopping_service_lingers_is_delivered() {
    let (tenant, receiver) = tenant_with_receiver("hook_linger").await;
    let launch = launch_with_webhook(&tenant, receiver.address()).env("APP_SERVER__LINGER", "10m");
    let mut running = RunningService::start(launch, &tenant).await;
    running.process.signal(Signal::TERM);
    running.process.wait_for_line(|line| line.contains("\"stopping\""), DEFAULT_TIMEOUT).await;
    let late = note_id(&running.create_note("late").await);
    receiver.wait_until(|deliveries| notes_of(deliveries).contains(&late)).await;
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(128 + 15));
}

#[tokio::test]
async fn workers_report_an_outage_of_the_database_once() {
    let (tenant, receiver) = tenant_with_receiver("hook_database").await;
    let running = RunningService::start(launch_with_webhook(&tenant, receiver.address()), &tenant).await;
    let note = running.create_note("before").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    tenant.limit_connections(&tenant.app_role(), 0).await.unwrap();
    tenant.kill_connections(&tenant.app_role()).await.unwrap();
    let count = |text: &str| events_that_say(&running.process, text).len();
    let counts = || (count("background work fails"), count("background work succeeds again"));
    let fails = async || counts() == (1, 0);
    eventually_within(2 * DEFAULT_TIMEOUT, "the report of the outage", fails).await;
    stays("the number of one report", Duration::from_secs(5), fails).await;
    tenant.limit_connections(&tenant.app_role(), -1).await.unwrap();
    let is_deleted =
        async || running.request(Method::DELETE, &note).send().await.unwrap().status() == StatusCode::NO_CONTENT;
    eventually("the deletion of the note", is_deleted).await;
    receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    let goes_on = async || count("background work succeeds again") > 0;
    eventually_within(2 * DEFAULT_TIMEOUT, "the report of the recovery", goes_on).await;
    assert_eq!(counts(), (1, 1));
}

#[tokio::test]
async fn check_names_a_webhook_without_a_key_and_accepts_a_key_without_a_webhook() {
    let tenant = SERVICE.migrated("hook_keys").await;
    let launch = SERVICE.launch(&tenant).args(["check"]).env("APP_SERVICE__WEBHOOK_URL", "https://example.com/hook");
    let exited = launch.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").run();
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    assert!(exited.stderr.contains("variable APP_SERVICE__WEBHOOK_URL (service.webhook_url)"), "{}", exited.stderr);
    tenant.put_random("webhook", "api_key").await.unwrap();
    let launch =
        SERVICE.launch(&tenant).args(["check", "--live"]).env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    assert_eq!(launch.run().code, Some(0));
}

#[tokio::test]
async fn a_url_that_is_not_safe_for_a_key_ends_with_78_and_is_not_quoted() {
    let tenant = SERVICE.tenant("hook_urls").await;
    for url in [
        "http://example.com/quoted",
        "https://quoted@example.com/",
        "https://quoted:word@example.com/",
        "https://example.com/?quoted=1",
        "https://example.com/#quoted",
        "ftp://example.com/quoted",
        "quoted",
    ] {
        let exited = SERVICE.launch(&tenant).args(["check"]).env("APP_SERVICE__WEBHOOK_URL", url).run();
        assert_eq!(exited.code, Some(78), "{url}");
        assert!(exited.stderr.contains("APP_SERVICE__WEBHOOK_URL"), "{}", exited.stderr);
        assert!(!format!("{}{}", exited.stdout, exited.stderr).contains("quoted"), "{url}: {}", exited.stderr);
    }
}
