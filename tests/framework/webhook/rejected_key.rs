//! A key that the webhook rejects.

use crate::{
    note_client::NoteClient,
    support::{
        launch_options::LaunchOptions,
        metrics_page::MetricsPage,
        reload_status::wait_for_generation,
        secrets::{scripted_manager, wait_for_request},
        time_waits::stays,
    },
    webhook_setup::{
        count_outbox_rows, current_key, delivery_count, launch_with_webhook, tenant_with_receiver, wait_for_outbox_rows,
    },
};
use devstack::{DEFAULT_TIMEOUT, FaultRule, RunningService, ScriptedFault, Signal, eventually};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_key_that_the_webhook_rejects_is_replaced_without_a_signal() {
    let (tenant, receiver) = tenant_with_receiver("hook_refused").await;
    let running = RunningService::start(launch_with_webhook(&tenant, receiver.address()), &tenant).await;
    running.create_note("with the old key").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    receiver.accept([current_key(&tenant).await]);
    for number in 0..8 {
        running.create_note(&number.to_string()).await;
    }
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 9).await;
    let key = current_key(&tenant).await;
    assert!(!deliveries[0].bears(&key) && deliveries[1..].iter().all(|delivery| delivery.bears(&key)));
    let status = wait_for_generation(&running, 2).await;
    assert_eq!(status["signals"]["seen"], 0);
    assert_eq!(status["last_reload"]["trigger"], "refused_key");
    let metrics = MetricsPage::of(&running).await;
    assert_eq!(metrics.reloads("refused_key", "published"), 1.0);
    assert_eq!((delivery_count(&running, "failed").await, delivery_count(&running, "set_aside").await), (0.0, 0.0));
}

#[tokio::test]
async fn a_key_that_the_webhook_rejects_for_good_is_reported_and_loses_no_event() {
    let (tenant, receiver) = tenant_with_receiver("hook_dead").await;
    let launch = launch_with_webhook(&tenant, receiver.address()).env("APP_SERVICE__WEBHOOK_ATTEMPTS", "1");
    let mut running = RunningService::start(launch, &tenant).await;
    receiver.accept(["another"]);
    for number in 0..5 {
        running.create_note(&number.to_string()).await;
    }
    wait_for_outbox_rows(&tenant, "attempts >= 2", 5).await;
    let metrics = MetricsPage::of(&running).await;
    assert_eq!(metrics.reloads("refused_key", "kept"), 1.0);
    let rejected = |name| format!("vestibule_credential_rejected{{name=\"{name}\"}}");
    assert_eq!((metrics.get(&rejected("webhook")), metrics.get(&rejected("database"))), (1.0, 0.0));
    assert_eq!(running.status().await["last_reload"]["exit_code"], 77);
    assert_eq!(count_outbox_rows(&tenant, "last_error LIKE '401%'").await, 5);
    receiver.accept([current_key(&tenant).await]);
    receiver.wait_until(|deliveries| deliveries.len() == 5).await;
    eventually("a key that is accepted", async || running.metric(&rejected("webhook")).await == 0.0).await;
    // The key is accepted again, so it is no longer reported.
    assert_eq!(running.reload().await["outcome"], "unchanged");
}

#[tokio::test]
async fn a_rejected_key_is_replaced_although_another_credential_is_malformed() {
    let (tenant, receiver) = tenant_with_receiver("hook_beside").await;
    let running = RunningService::start(launch_with_webhook(&tenant, receiver.address()), &tenant).await;
    tenant.put("database", "{").await.unwrap();
    tenant.put_random("webhook", "api_key").await.unwrap();
    receiver.accept([current_key(&tenant).await]);
    running.create_note("a note").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    // The delivery may be done before the reload's record is.
    let reload = eventually("the record of the reload", async || {
        let reload = running.status().await["last_reload"].clone();
        if reload.is_null() { None } else { Some(reload) }
    });
    let reload = reload.await;
    assert_eq!((&reload["trigger"], &reload["outcome"]), (&"refused_key".into(), &"published".into()), "{reload}");
    assert_eq!(reload["carried_over"][0]["credential"], "database", "{reload}");
}

#[tokio::test]
async fn a_key_that_is_rejected_during_a_reload_causes_no_second_reload() {
    let (tenant, receiver) = tenant_with_receiver("hook_meanwhile").await;
    let manager = scripted_manager(&tenant).await;
    let launch = launch_with_webhook(&tenant, receiver.address()).with_manager(&manager);
    let mut running = RunningService::start(launch, &tenant).await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    receiver.accept([current_key(&tenant).await]);
    manager.script([FaultRule::on(tenant.id("webhook"), ScriptedFault::Delay(Duration::from_secs(2))).times(1)]);
    let before = manager.requests(&tenant.id("webhook"));
    running.process.signal(Signal::HUP);
    wait_for_request(&manager, &tenant.id("webhook"), before).await;
    running.create_note("a note").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    assert_eq!(receiver.requests().len(), 2, "the first one was with the old key, and was rejected");
    let is_without_second_reload = async || {
        let metrics = MetricsPage::of(&running).await;
        ["unchanged", "kept", "published"].iter().all(|outcome| metrics.reloads("refused_key", outcome) == 0.0)
    };
    stays("the number of one reload", Duration::from_secs(1), is_without_second_reload).await;
    assert_eq!(MetricsPage::of(&running).await.reloads("signal", "published"), 1.0);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_reload_after_a_rejected_key() {
    let (tenant, receiver) = tenant_with_receiver("hook_stopped").await;
    let manager = scripted_manager(&tenant).await;
    let launch = launch_with_webhook(&tenant, receiver.address()).with_manager(&manager);
    let mut running = RunningService::start(launch.env("APP_SERVICE__WEBHOOK_TIMEOUT", "60s"), &tenant).await;
    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    receiver.accept(["another"]);
    let before = manager.requests(&tenant.id("webhook"));
    running.create_note("a note").await;
    eventually("a request to the webhook", async || !receiver.requests().is_empty()).await;
    // The delivery waits for this reload.
    wait_for_request(&manager, &tenant.id("webhook"), before).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(count_outbox_rows(&tenant, "last_error LIKE '401%'").await, 1);
}
