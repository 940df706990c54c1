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
    let launch = SERVICE.launch(&tenant).env("APP_SERVICE__MAX_LENGTH", "10").env("APP_SERVER__BODY_LIMIT", "1 KiB");
    let running = RunningService::start(launch, &tenant).await;
    running.create_note("ten is ok!").await;
    let bodies: [(&[u8], u16, &str); 10] = [
        (b"{\"body\": \"\"}", 422, "empty"),
        (b"{\"body\": \" \\n\"}", 422, "empty"),
        (b"{\"body\": \"eleven is 1\"}", 422, "10 are allowed"),
        (b"{\"body\": \"a\\u0000b\"}", 422, "NUL"),
        (b"{\"body\": \"\xff\xfe\"}", 400, "unicode"),
        (b"{\"body\": \"x\", \"more\": 1}", 422, "unknown field"),
        (b"{}", 422, "missing field `body`"),
        (b"{\"body\": 7}", 422, "expected a string"),
        (b"{", 400, "EOF"),
        (&[b' '; 2000], 413, "longer than"),
    ];
    for (body, status, says) in bodies {
        let detail = problem(running.post_json("/v1/notes", body.to_vec()).await, status).await;
        assert!(detail.contains(says), "{detail:?} does not contain {says:?}");
    }
    let untyped = running.request(Method::POST, "/v1/notes").body("{\"body\": \"x\"}").send().await.unwrap();
    assert!(problem(untyped, 415).await.contains("application/json"));
    let paths = [
        ("/v1/notes/7", 400, "UUID"),
        ("/v1/notes/%ff", 400, "UTF-8"),
        ("/v1/notes?limit=0", 400, "1 to 100"),
        ("/v1/notes?limit=101", 400, "1 to 100"),
        ("/v1/notes?limit=many", 400, "limit"),
        ("/v1/notes?page=2", 400, "unknown field"),
        ("/v2/notes", 404, "nothing at this path"),
    ];
    for (path, status, says) in paths {
        let detail = problem(running.get(path).await, status).await;
        assert!(detail.contains(says), "{path}: {detail:?} does not contain {says:?}");
    }
    let put = running.request(Method::PUT, "/v1/notes").send().await.unwrap();
    assert_eq!(put.headers()["allow"], "POST,GET,HEAD");
    problem(put, 405).await;
}

#[tokio::test]
async fn a_cursor_stays_valid_over_one_rotation_and_tampering_makes_it_invalid() {
    let tenant = SERVICE.migrated("cursor").await;
    let mut running = SERVICE.start(&tenant).await;
    for number in 0..3 {
        running.create_note(&number.to_string()).await;
    }
    let path = running.second_page().await;
    let (_, cursor) = path.rsplit_once('=').unwrap();
    let (key, rest) = cursor.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let flipped = if payload.ends_with('A') { "B" } else { "A" };
    for tampered in [
        format!("{key}.{}{flipped}.{signature}", &payload[..payload.len() - 1]),
        format!("{key}.{payload}.{}", signature.chars().rev().collect::<String>()),
        format!("other.{payload}.{signature}"),
        "x".into(),
        "..".into(),
        String::new(),
    ] {
        let detail = problem(running.get(&format!("/v1/notes?cursor={tampered}")).await, 400).await;
        assert!(detail.contains("`cursor`"), "{detail}");
    }

    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.get(&path).await.status(), StatusCode::OK);
    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
}
