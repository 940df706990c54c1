//! Debug tokens: a request that bears one is logged at debug, and no other one is.

use crate::{SERVICE, note_client::NoteClient, support::log_events::events_that_say};
use devstack::{DEFAULT_TIMEOUT, ExitedProcess, RunningService, Tenant, eventually, random_key};
use serde_json::{Value, json};

const HEADER: &str = "x-debug-token";

/// The series of requests with a token of this outcome.
fn tokens(outcome: &str) -> String {
    format!("vestibule_debug_tokens_total{{outcome=\"{outcome}\"}}")
}

/// Runs `debug-token` beside a service.
async fn debug_token(running: &RunningService<'_>, tenant: &Tenant, arguments: &[&str]) -> ExitedProcess {
    let launch = SERVICE.launch(tenant).args(["debug-token"]).args(arguments.iter().copied());
    launch.env("APP_ADMIN__LISTEN", &running.at.admin).start().exited(DEFAULT_TIMEOUT).await
}

/// Returns a token of the service. Its output must not have it.
async fn issue(running: &RunningService<'_>, tenant: &Tenant) -> String {
    let exited = debug_token(running, tenant, &["--for", "5m"]).await;
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    let token = exited.stdout.trim().to_owned();
    tenant.leak_detector().remember("debug token", &token);
    token
}

/// Lists notes with this token, and returns the log events of that request.
async fn events_of_list(running: &RunningService<'_>, token: Option<&str>) -> Vec<Value> {
    let mut request = running.request(devstack::reqwest::Method::GET, "/v1/notes");
    if let Some(token) = token {
        request = request.header(HEADER, token);
    }
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["x-request-id"].to_str().expect("hexadecimal digits").to_owned();
    answer.text().await.expect("a body");
    eventually("the access line of a request", async || {
        let events: Vec<_> = running.process.events().into_iter().filter(|event| event["trace_id"] == *id).collect();
        if events.iter().any(|event| event["target"] == "vestibule::access") { Ok(events) } else { Err(events.len()) }
    })
    .await
}

fn targets_at_debug(events: &[Value]) -> Vec<&str> {
    events.iter().filter(|event| event["level"] == "DEBUG").filter_map(|event| event["target"].as_str()).collect()
}

#[tokio::test]
async fn a_request_with_a_debug_token_is_logged_at_debug_and_no_other_one() {
    let tenant = SERVICE.migrated("debug_token").await;
    let running = RunningService::start(SERVICE.launch(&tenant), &tenant).await;
    let token = issue(&running, &tenant).await;
    let (with, without) = tokio::join!(events_of_list(&running, Some(&token)), events_of_list(&running, None));
    let targets = targets_at_debug(&with);
    let has = |name: &str| targets.iter().any(|target| target.starts_with(name));
    assert!(has("vestibule::resources::database") && has("service::notes"), "{with:?}");
    assert_eq!(targets_at_debug(&without), [""; 0], "{without:?}");
    let libraries = running.process.events().into_iter().filter(|event| {
        let target = event["target"].as_str().unwrap_or_default();
        event["level"] == "DEBUG" && !target.starts_with("vestibule") && !target.starts_with("service::")
    });
    assert_eq!(libraries.count(), 0);
    assert_eq!((running.metric(&tokens("accepted")).await, running.metric(&tokens("refused")).await), (1.0, 0.0));
    assert_eq!(events_that_say(&running.process, "issued a debug token").len(), 1);
}

#[tokio::test]
async fn a_debug_token_outlives_the_rotation_of_its_key() {
    let tenant = SERVICE.migrated("debug_rotation").await;
    let mut running = RunningService::start(SERVICE.launch(&tenant), &tenant).await;
    let token = issue(&running, &tenant).await;
    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    assert_ne!(targets_at_debug(&events_of_list(&running, Some(&token)).await), [""; 0]);
    let newer = issue(&running, &tenant).await;
    assert_ne!(newer.split('.').next(), token.split('.').next(), "the new key signs");
    assert_ne!(targets_at_debug(&events_of_list(&running, Some(&newer)).await), [""; 0]);
}

#[tokio::test]
async fn a_token_that_is_none_of_this_service_changes_nothing_and_is_not_in_the_log() {
    let (tenant, other) = (SERVICE.migrated("debug_refused").await, SERVICE.migrated("debug_other").await);
    let running = RunningService::start(SERVICE.launch(&tenant), &tenant).await;
    let foreign = {
        let running = RunningService::start(SERVICE.launch(&other), &other).await;
        issue(&running, &other).await
    };
    for text in ["one", "two"] {
        running.create_note(text).await;
    }
    let cursor = running.second_page().await.split("cursor=").nth(1).unwrap().to_owned();
    let token = issue(&running, &tenant).await;
    tenant.leak_detector().remember("foreign token", &foreign);
    let refused = [&*foreign, &token[..token.len() - 1], &cursor, "", "a.b.c", &"x".repeat(4000)];
    for token in refused {
        let events = events_of_list(&running, Some(token)).await;
        assert_eq!(targets_at_debug(&events), [""; 0], "{events:?}");
    }
    assert_eq!(running.metric(&tokens("refused")).await, refused.len() as f64);
    assert_eq!(events_that_say(&running.process, "a debug token is refused").len(), 1, "one line in 10 s");
    assert_eq!(running.status().await["signals"]["seen"], 0);
    assert_eq!(running.status().await["last_reload"], json!(null), "a foreign key causes no reload");
}

#[tokio::test]
async fn a_debug_token_is_for_a_minute_to_an_hour_and_for_a_service_that_runs() {
    let tenant = SERVICE.migrated("debug_command").await;
    let running = RunningService::start(SERVICE.launch(&tenant), &tenant).await;
    for lifetime in ["59s", "61m", "x"] {
        let exited = debug_token(&running, &tenant, &["--for", lifetime]).await;
        assert_eq!(exited.code, Some(64), "{}", exited.stderr);
        assert!(exited.stderr.contains("from 1m to 1h"), "{}", exited.stderr);
    }
    let admin = devstack::reqwest::Client::new().post(format!("http://{}/debug-token?seconds=60", running.at.admin));
    assert_eq!(admin.send().await.unwrap().status(), 404, "the admin listener does not know who asks");
    let nobody = SERVICE.launch(&tenant).args(["debug-token"]).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(nobody.code, Some(69), "{}", nobody.stderr);
}
