//! Keys that the webhook refuses.

use crate::hook::{counted, hooked, key, rows, telling, until_rows};
use crate::{DEFAULT_TIMEOUT, Notes, RunningService, metrics::Samples, rotation::unpolled, scripted};
use devstack::{FaultRule, ScriptedFault, Signal};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_key_that_the_webhook_refuses_is_replaced_before_anybody_sends_a_signal() {
    let (tenant, receiver) = hooked("hook_refused").await;
    let running = RunningService::start(telling(receiver.address(), unpolled(&tenant), &tenant), &tenant).await;
    running.create("with the old key").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    receiver.accept([key(&tenant).await]);
    for number in 0..8 {
        running.create(&number.to_string()).await;
    }
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 9).await;
    let key = key(&tenant).await;
    assert!(!deliveries[0].bears(&key) && deliveries[1..].iter().all(|delivery| delivery.bears(&key)));
    let status = running.status().await;
    assert_eq!((&status["generation"], &status["signals"]["seen"]), (&2.into(), &0.into()));
    assert_eq!(status["last_reload"]["trigger"], "refused_key");
    let samples = Samples::of(&running).await;
    assert_eq!(samples.get("vestibule_reloads_total{trigger=\"refused_key\",outcome=\"published\"}"), 1.0);
    assert_eq!((counted(&running, "failed").await, counted(&running, "set_aside").await), (0.0, 0.0));
}

#[tokio::test]
async fn a_key_that_nobody_accepts_costs_one_trip_and_no_event() {
    let (tenant, receiver) = hooked("hook_dead").await;
    let launch = telling(receiver.address(), unpolled(&tenant), &tenant).env("APP_SERVICE__WEBHOOK_ATTEMPTS", "1");
    let running = RunningService::start(launch, &tenant).await;
    receiver.accept(["another"]);
    for number in 0..5 {
        running.create(&number.to_string()).await;
    }
    until_rows(&tenant, "attempts >= 2", 5).await;
    let samples = Samples::of(&running).await;
    assert_eq!(samples.get("vestibule_reloads_total{trigger=\"refused_key\",outcome=\"unchanged\"}"), 1.0);
    assert_eq!(rows(&tenant, "last_error LIKE '401%'").await, 5);
    receiver.accept([key(&tenant).await]);
    receiver.wait_until(|deliveries| deliveries.len() == 5).await;
}

#[tokio::test]
async fn a_key_that_is_refused_while_its_successor_is_fetched_costs_no_second_trip() {
    let (tenant, receiver) = hooked("hook_meanwhile").await;
    let manager = scripted(&tenant).await;
    let launch = telling(receiver.address(), unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant);
    let mut running = RunningService::start(launch, &tenant).await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    receiver.accept([key(&tenant).await]);
    manager.script([FaultRule::on(tenant.id("webhook"), ScriptedFault::Delay(Duration::from_secs(2))).times(1)]);
    running.process.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(500)).await;
    running.create("a note").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    assert_eq!(receiver.requests().len(), 2, "the old key was refused");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let samples = Samples::of(&running).await;
    let reloads = |trigger: &str, outcome: &str| {
        samples.get(&format!("vestibule_reloads_total{{trigger=\"{trigger}\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!(reloads("signal", "published"), 1.0);
    assert_eq!(reloads("refused_key", "unchanged") + reloads("refused_key", "published"), 0.0);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_key_that_nobody_fetches_any_more() {
    let (tenant, receiver) = hooked("hook_stopped").await;
    let manager = scripted(&tenant).await;
    let launch = telling(receiver.address(), unpolled(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant);
    let mut running = RunningService::start(launch.env("APP_SERVICE__WEBHOOK_TIMEOUT", "60s"), &tenant).await;
    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    receiver.accept(["another"]);
    running.create("a note").await;
    let start = Instant::now();
    while receiver.requests().is_empty() {
        assert!(start.elapsed() < DEFAULT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(rows(&tenant, "last_error LIKE '401%'").await, 1);
}
