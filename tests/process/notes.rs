//! The notes, as a client sees them.

use crate::{Running, migrated, service};
use devstack::reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

/// The problem in an answer: its status, and what it tells the client.
pub(crate) async fn problem(answer: Response, status: u16) -> String {
    assert_eq!(answer.status().as_u16(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{answer:?}");
    let problem: Value = answer.json().await.expect("JSON");
    assert_eq!(problem["status"], status);
    assert!(!problem["title"].as_str().expect("a title").is_empty());
    problem["detail"].as_str().expect("a detail").to_owned()
}

#[tokio::test]
async fn a_note_is_created_read_and_deleted() {
    let tenant = migrated("crud").await;
    let running = Running::start(service(&tenant), &tenant).await;
    let answer = running.post("{\"body\": \"Grüße, 'notes'; DROP TABLE notes\"}").await;
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
async fn lists_are_newest_first_and_cursors_lead_through_all_of_them() {
    let tenant = migrated("lists").await;
    let running = Running::start(service(&tenant), &tenant).await;
    for number in 0..5 {
        running.create(&number.to_string()).await;
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
async fn bad_input_is_told_what_to_change() {
    let tenant = migrated("input").await;
    let launch = service(&tenant).env("APP_SERVICE__MAX_LENGTH", "10").env("APP_SERVER__BODY_LIMIT", "1 KiB");
    let running = Running::start(launch, &tenant).await;
    running.create("ten is ok!").await;
    let bodies: [(&[u8], u16, &str); 10] = [
        (b"{\"body\": \"\"}", 422, "empty"),
        (b"{\"body\": \" \\n\"}", 422, "empty"),
        (b"{\"body\": \"eleven is 1\"}", 422, "10 are allowed"),
        (b"{\"body\": \"a\\u0000b\"}", 422, "NUL"),
        (b"{\"body\": \"\xff\xfe\"}", 400, "unicode"),
        (b"{\"body\": \"x\", \"more\": 1}", 422, "unknown field `more`"),
        (b"{}", 422, "missing field `body`"),
        (b"{\"body\": 7}", 422, "expected a string"),
        (b"{", 400, "EOF"),
        (&[b' '; 2000], 413, "length limit"),
    ];
    for (body, status, says) in bodies {
        let detail = problem(running.post(body.to_vec()).await, status).await;
        assert!(detail.contains(says), "{detail:?} does not say {says:?}");
    }
    let untyped = running.request(Method::POST, "/v1/notes").body("{\"body\": \"x\"}").send().await.unwrap();
    assert!(problem(untyped, 415).await.contains("application/json"));
    let paths = [
        ("/v1/notes/7", 400, "UUID"),
        ("/v1/notes/%ff", 400, "UUID"),
        ("/v1/notes?limit=0", 400, "1 to 100"),
        ("/v1/notes?limit=101", 400, "1 to 100"),
        ("/v1/notes?limit=many", 400, "limit"),
        ("/v1/notes?page=2", 400, "unknown field `page`"),
        ("/v2/notes", 404, "nothing at this path"),
    ];
    for (path, status, says) in paths {
        let detail = problem(running.get(path).await, status).await;
        assert!(detail.contains(says), "{path}: {detail:?} does not say {says:?}");
    }
    let put = running.request(Method::PUT, "/v1/notes").send().await.unwrap();
    assert_eq!(put.headers()["allow"], "POST,GET,HEAD");
    problem(put, 405).await;
}

#[tokio::test]
async fn a_database_that_goes_away_is_503_and_heals() {
    let tenant = migrated("goes_away").await;
    let running = Running::start(service(&tenant).env("APP_DATABASE__ACQUIRE_TIMEOUT", "1s"), &tenant).await;
    let note = running.create("a note").await;
    let mut admin = tenant.admin().await.unwrap();
    let allow = async |admin: &mut sqlx::PgConnection, allowed: bool| {
        let statement = format!("ALTER ROLE {} CONNECTION LIMIT {}", tenant.app(), if allowed { -1 } else { 0 });
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(admin).await.unwrap();
    };
    allow(&mut admin, false).await;
    tenant.kill_connections(&tenant.app()).await.unwrap();
    // Only a connection that sat idle for half a second is checked before it is used.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let away = running.get(&note).await;
    assert_eq!(away.headers()["retry-after"], "1");
    problem(away, 503).await;
    assert_eq!(running.admin("/readyz").await.0, StatusCode::OK, "taking the fleet out would cure nothing");
    assert_eq!(running.admin("/livez").await.0, StatusCode::OK);
    allow(&mut admin, true).await;
    assert_eq!(running.get(&note).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn too_many_requests_in_flight_are_told_to_come_back() {
    let tenant = migrated("in_flight").await;
    let running = Running::start(service(&tenant).env("APP_SERVER__MAX_IN_FLIGHT", "1"), &tenant).await;
    let mut go = None;
    let start = std::time::Instant::now();
    // The slow one is told to come back itself if it comes while another is in flight.
    let slow = loop {
        let (sender, wait) = tokio::sync::oneshot::channel::<()>();
        let stream = futures_util::stream::once(async move {
            let _ = wait.await;
            Ok::<_, std::io::Error>("{\"body\": \"x\"}")
        });
        let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
        let slow = tokio::spawn(post.body(devstack::reqwest::Body::wrap_stream(stream)).send());
        go.replace(sender);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        if !slow.is_finished() && running.get("/v1/notes").await.status() == StatusCode::SERVICE_UNAVAILABLE {
            break slow;
        }
        assert!(start.elapsed() < crate::running::PATIENCE, "the first was not in flight");
    };
    let full = running.get("/v1/notes").await;
    assert_eq!(full.headers()["retry-after"], "1");
    assert!(problem(full, 503).await.contains("in flight"));
    go.expect("it was sent").send(()).unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::CREATED);
    assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_503() {
    let tenant = migrated("too_long").await;
    let running = Running::start(service(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "300ms"), &tenant).await;
    let never = futures_util::stream::pending::<Result<&str, std::io::Error>>();
    let post = running.request(Method::POST, "/v1/notes").header("content-type", "application/json");
    let answer = post.body(devstack::reqwest::Body::wrap_stream(never)).send().await.unwrap();
    assert!(problem(answer, 503).await.contains("too long"));
}
