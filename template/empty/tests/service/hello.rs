//! The greeting, as a client sees it.

use crate::SERVICE;
use devstack::{RunningService, problem, reqwest::StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn hello_greets_in_the_configured_language() {
    let tenant = SERVICE.migrated("hello").await;
    let running = SERVICE.start(&tenant).await;
    let answer = running.get("/v1/hello").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "greeting": "Hello" }));

    let french = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVICE__LANGUAGE", "fr"), &tenant).await;
    let answer: Value = french.get("/v1/hello").await.json().await.unwrap();
    assert_eq!(answer["greeting"], "Bonjour");
}

#[tokio::test]
async fn a_language_without_a_greeting_is_404() {
    let tenant = SERVICE.migrated("no_greeting").await;
    let running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVICE__LANGUAGE", "xx"), &tenant).await;
    assert!(problem(running.get("/v1/hello").await, 404).await.contains("no greeting"));
}
