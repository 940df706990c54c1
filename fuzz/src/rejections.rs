//! The problems that axum's extractors cause.

use axum::{
    Form, Json, Router,
    body::Body,
    extract::{Path, Query},
    http::{Request, Uri, header::CONTENT_TYPE},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, sync::LazyLock};
use vestibule::fuzzing;

/// A secret with a character that no name of a program has: problems name keys.
const SENTINEL: &str = "Hunter 2";

/// The same as a number.
const NUMBER: &str = "8675309";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only their types matter")]
struct Order {
    id: BTreeMap<String, u8>,
    lines: Vec<Line>,
    pair: Option<(bool, char)>,
    choice: Option<Choice>,
    by_name: Option<BTreeMap<String, Line>>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "only their types matter")]
struct Line {
    count: Option<u8>,
    color: Option<Color>,
    price: Option<f32>,
    address: Option<std::net::IpAddr>,
    nothing: Option<()>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Color {
    Red,
    Green,
}

#[derive(Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "only their types matter")]
enum Choice {
    Number(u8),
    Line(Line),
}

static ROUTES: LazyLock<Router> = LazyLock::new(|| {
    Router::new()
        .route("/json", post(async |_: Json<Order>| ()))
        .route("/form", post(async |_: Form<Line>| ()))
        .route("/query", get(async |_: Query<Line>| ()))
        .route("/number/{id}", get(async |_: Path<u8>| ()))
        .route("/color/{color}/{count}", get(async |_: Path<(Color, u8)>| ()))
        .route("/line/{count}/{address}", get(async |_: Path<Line>| ()))
});

/// Checks that no problem quotes a body, a query or a path.
pub(crate) fn check(text: &str) {
    let text = &text.replace('§', SENTINEL).replace('¤', NUMBER);
    let shows_number = !has_number_in_names(text);
    let post = |path, kind, body: &str| {
        Request::post(path).header(CONTENT_TYPE, kind).body(Body::from(body.to_owned())).expect("a request")
    };
    // A name with a colon and a blank looks as the place and the message of a type that is not serde's. An escape can make one.
    let json = text.replace(": ", ":");
    if !json.contains("\\u") {
        quotes_nothing(post("/json", "application/json", &json), shows_number);
    }
    quotes_nothing(post("/form", "application/x-www-form-urlencoded", text), false);
    let encoded = encoded(text);
    for start in
        ["/query?", "/query?count=", "/query?color=", "/number/", "/color/red/", "/color/", "/line/1/", "/line/"]
    {
        let Ok(uri) = format!("{start}{encoded}").parse::<Uri>() else { continue };
        quotes_nothing(Request::get(uri).body(Body::empty()).expect("a request"), start != "/query?");
    }
}

fn quotes_nothing(request: Request<Body>, shows_number: bool) {
    let (status, text) = fuzzing::answer(ROUTES.clone(), request);
    assert!(!status.is_server_error(), "{status}: {text}");
    assert!(!text.contains("Hunter"), "the sentinel is in: {text}");
    assert!(!shows_number || !text.contains(NUMBER), "the number is in: {text}");
    if status.is_client_error() {
        let problem: Value = serde_json::from_str(&text).expect("a problem is JSON");
        assert_eq!(problem["status"], status.as_u16());
    }
}

/// Returns `true` if a name in the JSON contains the number, or if it is no JSON.
fn has_number_in_names(text: &str) -> bool {
    fn in_value(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(in_value),
            Value::Object(members) => members.iter().any(|(name, value)| name.contains(NUMBER) || in_value(value)),
            _ => false,
        }
    }
    serde_json::from_str(text).map_or(true, |value| in_value(&value))
}

/// Returns the text with the characters that a URI has not as `%` and hexadecimal digits.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'=' | b'&' | b'/' | b'`' => {
                encoded.push(byte.into());
            }
            other => encoded += &format!("%{other:02X}"),
        }
    }
    encoded
}
