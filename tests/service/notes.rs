//! The notes, as a client sees them.

use crate::{SERVICE, note_client::NoteClient};
use devstack::{
    RunningService, problem, random_key,
    reqwest::{Method, StatusCode},
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_note_is_created_read_and_deleted() {
    let tenant = SERVICE.migrated("crud").await;
    let running = SERVICE.start(&tenant).await;
    let answer = running.post_json("/v1/notes", "{\"body\": \"Grüße, 'notes'; DROP TABLE notes\"}").await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let path = answer.headers()["location"].to_str().unwrap().to_owned();
    let created: Value = answer.json().await.unwrap();
    assert_eq!(path, format!("/v1/notes/{}", created["id"].as_str().unwrap()));
    let read: Value = running.get(&path).await.json().await.unwrap();
    assert_eq!(read, created);
    assert_eq!(read["body"], "Grüße, 'notes'; DROP TABLE notes");
    let deleted = running.request(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert!(problem(running.get(&path).await, 404).await.contains("no such note"));
    problem(running.request(Method::DELETE, &path).send().await.unwrap(), 404).await;
}

#[tokio::test]
async fn a_list_is_newest_first_and_its_cursors_lead_through_all_pages() {
    let tenant = SERVICE.migrated("lists").await;
    let running = SERVICE.start(&tenant).await;
    for number in 0..5 {
        running.create_note(&number.to_string()).await;
    }
    let mut seen = Vec::new();
    let mut path = "/v1/notes?limit=2".to_owned();
    loop {
        let page: Value = running.get(&path).await.json().await.unwrap();
        seen.extend(page["notes"].as_array().unwrap().iter().map(|note| note["body"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/notes?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, [json!("4"), json!("3"), json!("2"), json!("1"), json!("0")]);
    let all: Value = running.get("/v1/notes").await.json().await.unwrap();
    assert_eq!(all["notes"].as_array().unwrap().len(), 5);
    assert_eq!(all["next_cursor"], Value::Null);
}

#[tokio::test]
async fn the_answer_to_bad_input_says_what_to_change() {
    let tenant = SERVICE.migrated("input").await;
    let running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVICE__MAX_LENGTH", "10"), &tenant).await;
    running.create_note("ten is ok!").await;
    for (body, says) in [
        (r#"{"body": ""}"#, "empty"),
        (r#"{"body": " \n"}"#, "empty"),
        (r#"{"body": "eleven is 1"}"#, "10 are allowed"),
        (r#"{"body": "a\u0000b"}"#, "NUL"),
        (r#"{"body": "x", "more": 1}"#, "unknown field"),
        ("{}", "missing field `body`"),
    ] {
        let detail = problem(running.post_json("/v1/notes", body).await, 422).await;
        assert!(detail.contains(says), "{detail:?} does not contain {says:?}");
    }
    for (path, says) in
        [("/7", "UUID"), ("?limit=0", "1 to 100"), ("?limit=101", "1 to 100"), ("?page=2", "unknown field")]
    {
        let detail = problem(running.get(&format!("/v1/notes{path}")).await, 400).await;
        assert!(detail.contains(says), "{path}: {detail:?} does not contain {says:?}");
    }
}

#[tokio::test]
async fn a_cursor_stays_valid_over_one_rotation() {
    let tenant = SERVICE.migrated("cursor").await;
    let mut running = SERVICE.start(&tenant).await;
    for number in 0..3 {
        running.create_note(&number.to_string()).await;
    }
    let path = running.second_page().await;
    assert!(problem(running.get(&format!("{path}x")).await, 400).await.contains("`cursor`"));
    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.get(&path).await.status(), StatusCode::OK);
    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
}
