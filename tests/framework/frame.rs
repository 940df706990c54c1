//! The frame of a request, through the real listener: access lines, metrics, limits and headers.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{metrics_page::MetricsPage, slow_request::SlowRequest},
};
use devstack::{
    DEFAULT_TIMEOUT, RunningService, Tenant, eventually, problem,
    reqwest::{Body, Method, StatusCode},
};
use futures_util::stream;
use serde_json::Value;
use std::io;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// Waits until there are this many access lines. Returns the fields of all.
async fn access_lines(running: &RunningService<'_>, count: usize) -> Vec<Value> {
    eventually("access lines", async || {
        let events = running.process.events().into_iter();
        let lines: Vec<_> = events.filter(|event| event["target"] == "vestibule::access").collect();
        if lines.len() >= count { Ok(lines) } else { Err(format!("{lines:#?}")) }
    })
    .await
    .into_iter()
    .map(|event| event["fields"].clone())
    .collect()
}

/// Returns the series of requests with this method, status and route.
fn series(method: &str, status: u16, route: Option<&str>) -> String {
    let route = route.map(|route| format!(",http_route=\"{route}\"")).unwrap_or_default();
    format!(
        "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",url_scheme=\"http\",\
         network_protocol_version=\"1.1\",http_response_status_code=\"{status}\"{route}}}"
    )
}

#[tokio::test]
async fn each_request_has_an_access_line_and_is_counted_also_across_a_reload() {
    let tenant = SERVICE.migrated("access").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    assert_eq!(running.get(&format!("{note}?key=sentinel-in-a-query")).await.status(), StatusCode::OK);
    assert_eq!(running.get("/nowhere").await.status(), StatusCode::NOT_FOUND);
    let lines = access_lines(&running, 3).await;
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let read = &lines[1];
    assert_eq!(read["http.request.method"], "GET");
    assert_eq!((&read["http.route"], &read["url.path"]), (&Value::from("/v1/notes/{id}"), &Value::from(note.as_str())));
    assert_eq!(
        (&read["http.response.status_code"], &read["client.address"]),
        (&Value::from(200), &Value::from("127.0.0.1"))
    );
    assert!(read["duration_ms"].as_f64().is_some_and(|duration| duration > 0.0), "{read:#}");
    assert!(!running.process.output().contains("sentinel-in-a-query"));
    assert_eq!(lines[2]["http.route"], Value::Null);

    let counts = async |running: &RunningService<'_>| {
        let page = MetricsPage::of(running).await;
        assert_eq!(page.get("http_server_active_requests{http_request_method=\"GET\",url_scheme=\"http\"}"), 0.0);
        assert!(page.series().iter().all(|series| !series.contains("nowhere")), "a path is no label");
        let read = page.get(&series("GET", 200, Some("/v1/notes/{id}")));
        (page.get(&series("POST", 201, Some("/v1/notes"))), read, page.get(&series("GET", 404, None)))
    };
    assert_eq!(counts(&running).await, (1.0, 1.0, 1.0));
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    running.get(&note).await;
    access_lines(&running, 4).await;
    assert_eq!(counts(&running).await, (1.0, 2.0, 1.0));
}

#[tokio::test]
async fn a_filter_turns_access_lines_off() {
    let tenant = SERVICE.migrated("access_off").await;
    let launch = SERVICE.launch(&tenant).env("APP_TELEMETRY__FILTER", "info,vestibule::access=off");
    let running = RunningService::start(launch, &tenant).await;
    running.create_note("a note").await;
    let is_counted =
        async || MetricsPage::of(&running).await.find(&series("POST", 201, Some("/v1/notes"))) == Some(1.0);
    eventually("the end of the request", is_counted).await;
    assert!(!running.process.output().contains("a request ended"));
}

#[tokio::test]
async fn a_response_names_the_trace_of_its_request() {
    let tenant = SERVICE.migrated("trace_id").await;
    let running = SERVICE.start(&tenant).await;
    let parent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    let missing =
        running.request(Method::GET, "/nowhere").header("traceparent", parent).send().await.expect("an answer");
    assert_eq!(missing.headers()["x-request-id"], TRACE_ID);
    assert_eq!(missing.json::<Value>().await.unwrap()["instance"], format!("urn:trace:{TRACE_ID}"));
    let other = running.get("/v1/notes").await;
    assert_ne!(other.headers()["x-request-id"], TRACE_ID);
    assert_eq!(other.headers()["cache-control"], "no-store");
    assert!(!other.headers().contains_key("strict-transport-security"));
}

#[tokio::test]
async fn a_body_that_trickles_gets_408_and_its_connection_is_closed() {
    let tenant = SERVICE.migrated("trickles").await;
    let launch = SERVICE.launch(&tenant).env("APP_SERVER__REQUEST_TIMEOUT", "300ms");
    let running = RunningService::start(launch, &tenant).await;
    let mut stream = TcpStream::connect(&running.at.public).await.unwrap();
    let head =
        "POST /v1/notes HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEFAULT_TIMEOUT, stream.read_to_string(&mut answer)).await.expect("the connection is closed").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(access_lines(&running, 1).await[0]["http.response.status_code"], 408);
}

#[tokio::test]
async fn an_upload_that_is_refused_early_gets_its_answer_though_it_goes_on() {
    let tenant = SERVICE.migrated("early").await;
    let running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVER__BODY_LIMIT", "1 KiB"), &tenant).await;
    for (path, status) in [("/v1/notes", 413), ("/nowhere", 404)] {
        let is_answered = async || match upload(&running, path).await {
            Ok(answer) => {
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
                answer.contains("application/problem+json")
            }
            // The service reads on for a second, in which a busy machine may not run this client.
            Err(_) => false,
        };
        eventually("an answer", is_answered).await;
    }
}

/// Sends a part of an upload, also when the answer is there. Returns the answer.
async fn upload(running: &RunningService<'_>, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(&running.at.public).await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 4194304\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = vec![stream.read_u8().await?];
    // A write to a connection that was reset fails, though not the first one.
    for _ in 0..64 {
        stream.write_all(&[b' '; 8 * 1024]).await?;
    }
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_logged() {
    let tenant = SERVICE.migrated("leaves").await;
    let running = SERVICE.start(&tenant).await;
    drop(SlowRequest::start(&running).await);
    let line = access_lines(&running, 1).await.remove(0);
    assert_eq!(line["http.route"], "/v1/notes");
    assert!(line["http.response.status_code"].is_null() || line["http.response.status_code"] == 400, "{line:#}");
}

#[tokio::test]
async fn the_problem_of_a_rejected_request_says_what_to_change() {
    let tenant = SERVICE.migrated("input").await;
    let running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVER__BODY_LIMIT", "1 KiB"), &tenant).await;
    let bodies: [(&[u8], u16, &str); 4] = [
        (b"{\"body\": \"\xff\xfe\"}", 400, "unicode"),
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
        ("/v1/notes/%ff", 400, "UTF-8"),
        ("/v1/notes?limit=many", 400, "limit"),
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
async fn a_body_without_an_announced_length_is_limited_too() {
    let tenant = SERVICE.migrated("chunked").await;
    let running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVER__BODY_LIMIT", "1 KiB"), &tenant).await;
    let chunks = Body::wrap_stream(stream::iter([600, 600].map(|length| Ok::<_, io::Error>(" ".repeat(length)))));
    assert!(problem(running.post_json("/v1/notes", chunks).await, 413).await.contains("longer than 1024 bytes"));
    let encoded = running.request(Method::POST, "/v1/notes").header("content-encoding", "gzip").body("x").send().await;
    problem(encoded.unwrap(), 415).await;
}

/// Returns the header `content-encoding` of the list of notes.
async fn encoding_of_list(tenant: &Tenant, compression: &str) -> Option<String> {
    let running =
        RunningService::start(SERVICE.launch(tenant).env("APP_SERVER__COMPRESSION", compression), tenant).await;
    running.create_note(&"a long note ".repeat(200)).await;
    let list = running.request(Method::GET, "/v1/notes").header("accept-encoding", "gzip").send().await;
    let list = list.expect("an answer");
    assert_eq!(list.status(), StatusCode::OK);
    list.headers().get("content-encoding").map(|value| value.to_str().expect("text").to_owned())
}

#[tokio::test]
async fn a_long_answer_is_compressed_unless_the_configuration_says_no() {
    let tenant = SERVICE.migrated("gzip").await;
    assert_eq!(encoding_of_list(&tenant, "true").await.as_deref(), Some("gzip"));
    assert_eq!(encoding_of_list(&tenant, "false").await, None);
}
