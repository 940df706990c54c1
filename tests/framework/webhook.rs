//! What the webhook of the example shows of the framework: workers, URLs of APIs, answers that do not come.

mod keys;
mod tls;

use crate::{
    DEFAULT_TIMEOUT, Notes, RunningService,
    hook::{counted, hooked, id, telling, told, until_rows},
    rotation::unpolled,
    service, tenant,
};
use devstack::{
    AnswerRule, Delivery, ScriptedAnswer,
    reqwest::{Method, StatusCode},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

#[tokio::test]
async fn what_hangs_and_what_breaks_hold_up_nobody_else() {
    let (tenant, receiver) = hooked("hook_hangs").await;
    let on = |text: &'static str| move |body: &[u8]| String::from_utf8_lossy(body).contains(text);
    receiver.script([
        AnswerRule::on(on("hangs"), ScriptedAnswer::BlackHole),
        AnswerRule::on(on("breaks"), ScriptedAnswer::Reset),
    ]);
    let launch = telling(receiver.address(), service(&tenant), &tenant).env("APP_SERVICE__WEBHOOK_TIMEOUT", "1s");
    let running = RunningService::start(launch, &tenant).await;
    let (hangs, breaks) = (running.create("hangs").await, running.create("breaks").await);
    let mut others = BTreeSet::new();
    for number in 0..10 {
        others.insert(id(&running.create(&number.to_string()).await));
    }
    let notes = |deliveries: &[Delivery]| told(deliveries).into_iter().map(|(_, note)| note).collect::<BTreeSet<_>>();
    receiver.wait_until(|deliveries| notes(deliveries) == others).await;
    until_rows(&tenant, "last_error LIKE 'no answer came within 1s'", 1).await;
    until_rows(&tenant, "last_error LIKE 'the connection to % broke: %'", 1).await;
    receiver.clear();
    others.extend([id(&hangs), id(&breaks)]);
    receiver.wait_until(|deliveries| notes(deliveries) == others).await;
    assert_eq!(counted(&running, "set_aside").await, 0.0);
}

#[tokio::test]
async fn a_database_that_is_away_is_told_of_once() {
    let (tenant, receiver) = hooked("hook_database").await;
    let running = RunningService::start(telling(receiver.address(), unpolled(&tenant), &tenant), &tenant).await;
    let note = running.create("before").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    tenant.limit_connections(&tenant.app_role(), 0).await.unwrap();
    tenant.kill_connections(&tenant.app_role()).await.unwrap();
    let said = |text: &str| {
        let says = |event: &serde_json::Value| event["fields"]["message"].as_str().is_some_and(|m| m.contains(text));
        running.process.events().into_iter().filter(says).count()
    };
    let until_said = async |text: &str| {
        let start = Instant::now();
        while said(text) == 0 {
            assert!(start.elapsed() < 2 * DEFAULT_TIMEOUT, "nobody said that {text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    until_said("background work fails").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((said("background work fails"), said("background work goes on")), (1, 0));
    tenant.limit_connections(&tenant.app_role(), -1).await.unwrap();
    let start = Instant::now();
    while running.request(Method::DELETE, &note).send().await.unwrap().status() != StatusCode::NO_CONTENT {
        assert!(start.elapsed() < DEFAULT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    until_said("background work goes on").await;
    assert_eq!((said("background work fails"), said("background work goes on")), (1, 1));
}

#[tokio::test]
async fn a_url_that_a_key_must_not_travel_by_ends_with_78_and_is_not_quoted() {
    let tenant = tenant("hook_urls").await;
    for url in [
        "http://example.com/quoted",
        "https://quoted@example.com/",
        "https://quoted:word@example.com/",
        "https://example.com/?quoted=1",
        "https://example.com/#quoted",
        "ftp://example.com/quoted",
        "quoted",
    ] {
        let exited = service(&tenant).args(["check"]).env("APP_SERVICE__WEBHOOK_URL", url).run();
        assert_eq!(exited.code, Some(78), "{url}");
        assert!(exited.stderr.contains("APP_SERVICE__WEBHOOK_URL"), "{}", exited.stderr);
        assert!(!format!("{}{}", exited.stdout, exited.stderr).contains("quoted"), "{url}: {}", exited.stderr);
    }
}
