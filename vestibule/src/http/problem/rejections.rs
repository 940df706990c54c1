//! The problems that axum's rejections become: the place of the mistake, and no word of the client's input.
//!
//! Their texts are serde's, which quotes what it could not read. That may be a password in the wrong place, and a client
//! may log the problem.

use super::Problem;
use axum::http::StatusCode;
use serde_json::json;

/// The texts with which axum begins: the text of the detail, and `true` if what follows tells a place in a JSON body.
const BEGINNINGS: [(&str, bool); 5] = [
    ("Failed to deserialize the JSON body into the target type", true),
    ("Failed to parse the request body as JSON", true),
    ("Failed to deserialize query string", false),
    ("Failed to deserialize form body", false),
    ("Failed to deserialize form", false),
];

/// The beginnings of serde's own messages.
const OF_SERDE: [&str; 7] = [
    "invalid type: ",
    "invalid value: ",
    "invalid length ",
    "unknown variant `",
    "unknown field `",
    "missing field `",
    "duplicate field `",
];

/// The kinds of values, as serde's messages name them.
const KINDS: [&str; 18] = [
    "boolean",
    "integer",
    "floating point",
    "character",
    "string",
    "byte array",
    "unit value",
    "null",
    "Option value",
    "newtype struct",
    "sequence",
    "map",
    "enum",
    "unit variant",
    "newtype variant",
    "tuple variant",
    "struct variant",
    "variant identifier",
];

/// Turns an error in plain text into a problem.
pub(super) fn problem(status: StatusCode, text: &str) -> Problem {
    for (beginning, is_json) in BEGINNINGS {
        let Some(rest) = text.strip_prefix(beginning) else { continue };
        let Some(rest) = rest.strip_prefix(": ") else { continue };
        if is_ambiguous(rest) {
            return Problem::new(status, beginning);
        }
        let (path, message) = split(rest);
        let message = without_input(message);
        let place = if path.is_empty() || !is_plain(path) { String::new() } else { format!("{path}: ") };
        let problem = Problem::new(status, format!("{beginning}: {place}{message}"));
        let pointer = if is_json { pointer(path, &message) } else { None };
        return match pointer {
            Some(pointer) => problem.with("errors", [json!({ "detail": message, "pointer": pointer })]),
            None => problem,
        };
    }
    if let Some(message) = text.strip_prefix("Invalid URL: ") {
        return Problem::new(status, format!("Invalid URL: {}", without_value_of_path(message)));
    }
    Problem::new(status, text.to_owned())
}

/// Returns `true` if a text has two beginnings of serde's messages. One is the client's: the name of a member, or a value.
fn is_ambiguous(text: &str) -> bool {
    OF_SERDE.iter().map(|beginning| text.matches(beginning).count()).sum::<usize>() > 1
}

/// Splits the path of serde_path_to_error from the message behind it. The path may be missing.
fn split(text: &str) -> (&str, &str) {
    let of_serde = OF_SERDE.iter().filter_map(|beginning| {
        let start = if text.starts_with(beginning) { 0 } else { text.find(&format!(": {beginning}"))? + 2 };
        Some(start)
    });
    let start = match of_serde.min() {
        Some(start) => start,
        // Another message, such as that of a parser. A path has no blanks, unless a name that the client chose has some.
        // Then only the last part is surely of the message.
        None => match (text.split_once(": "), text.rfind(": ")) {
            (Some((path, _)), _) if !path.contains(' ') => path.len() + 2,
            (_, Some(last)) => last + 2,
            (_, None) => 0,
        },
    };
    (text[..start].trim_end_matches(": "), &text[start..])
}

/// Returns a message of serde without the input that it quotes.
///
/// If a client names a member as serde begins its messages, `message` begins with that name. A colon and the true message
/// follow. So a part in which a colon may follow is left out.
fn without_input(message: &str) -> String {
    let Some(beginning) = OF_SERDE.into_iter().find(|beginning| message.starts_with(beginning)) else {
        return without_quoted(message);
    };
    let rest = &message[beginning.len()..];
    let (kind, expected) = match beginning {
        "missing field `" | "duplicate field `" if is_field(rest) => return message.to_owned(),
        "missing field `" | "duplicate field `" => ("", ""),
        "unknown variant `" | "unknown field `" if rest.contains(": ") => ("", ""),
        "unknown variant `" | "unknown field `" => {
            let end = ["`, expected ", "`, there are no "].iter().find_map(|end| rest.rfind(end));
            ("", end.map_or("", |at| &rest[at + 1..]))
        }
        "invalid length " => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
        _ => {
            let kind = KINDS.into_iter().find(|kind| rest.starts_with(kind)).unwrap_or_default();
            (kind, behind_value(&rest[kind.len()..]))
        }
    };
    let is_of_serde = [", expected ", ", there are no "].iter().any(|start| expected.starts_with(start));
    let expected = if is_of_serde && !expected.contains(": ") && !expected.contains('"') { expected } else { "" };
    let what = format!("{}{kind}", beginning.trim_end_matches('`'));
    what.trim_end_matches([' ', ':']).to_owned() + expected
}

/// Returns `true` if a text is the name of a field and its end, perhaps with the place of the mistake.
fn is_field(text: &str) -> bool {
    match text.split_once('`') {
        Some((_, end)) => !text.contains(": ") && (end.is_empty() || end.starts_with(" at line ")),
        None => false,
    }
}

/// Returns the text behind the value that serde quotes, if it quotes one. Empty if the end of the value is not sure.
fn behind_value(text: &str) -> &str {
    if let Some(quoted) = text.strip_prefix(" \"") {
        let mut is_escaped = false;
        let end = quoted.bytes().position(|byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        });
        return end.map_or("", |at| &quoted[at + 1..]);
    }
    match text.strip_prefix(" `").map(|quoted| quoted.split_once('`')) {
        Some(Some((value, behind))) if !value.contains(": ") => behind,
        Some(_) => "",
        None => text,
    }
}

/// Returns a text without what it has in quotes or backticks. A quote that does not end takes the rest with it.
fn without_quoted(text: &str) -> String {
    let mut kept = String::new();
    let mut quote = None;
    let mut is_escaped = false;
    for character in text.chars() {
        match quote {
            None if matches!(character, '"' | '`') => {
                quote = Some(character);
                kept.push('…');
            }
            None => kept.push(character),
            Some(_) if is_escaped => is_escaped = false,
            Some('"') if character == '\\' => is_escaped = true,
            Some(end) if character == end => quote = None,
            Some(_) => {}
        }
    }
    kept
}

/// Returns axum's message about a parameter of the path, without its value.
fn without_value_of_path(message: &str) -> String {
    if let Some((before, value)) = message.split_once(" with value `")
        && is_parameter(before)
    {
        // Cannot parse `id` with value `…` to a `u64`, or: Cannot parse `id` with value `…`: the parser's own message
        let end = if message.ends_with('`') { "` to a `" } else { "`: " };
        let after = value.rfind(end).map_or("", |at| &value[at + 1..]);
        return if message.ends_with('`') {
            format!("{before}{after}")
        } else {
            before.to_owned() + &without_quoted(after)
        };
    }
    // Cannot parse `…` to a `u64`
    match (message.strip_prefix("Cannot parse `"), message.rfind("` to a `")) {
        (Some(_), Some(at)) => format!("Cannot parse the value{}", &message[at + 1..]),
        // The name of a parameter is the program's.
        _ if message.starts_with("Invalid UTF-8 in `") => message.to_owned(),
        _ => without_input(message),
    }
}

/// Returns `true` if a text names a parameter of the path in axum's words. What a client sends can look nearly so.
fn is_parameter(text: &str) -> bool {
    match text.strip_prefix("Cannot parse `") {
        Some(name) => name.strip_suffix('`').is_some_and(is_plain),
        None => text.starts_with("Cannot parse value at index "),
    }
}

/// Returns `true` if the names in a path look like those of a program. A client can use any text as a name.
fn is_plain(path: &str) -> bool {
    path.len() <= 256 && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-$@.[]".contains(&byte))
}

/// Returns the JSON pointer (RFC 6901, as a fragment) to the place of a mistake. `None` if the place is not known, or if
/// a name in it is an unusual one.
fn pointer(path: &str, message: &str) -> Option<String> {
    let missing = message.strip_prefix("missing field `").and_then(|field| field.split('`').next());
    if !is_plain(path) {
        return None;
    }
    let mut pointer = "#".to_owned();
    for part in path.split(['.', '[']).chain(missing).map(|part| part.trim_end_matches(']')) {
        if !part.is_empty() {
            pointer.push('/');
            pointer.push_str(part);
        }
    }
    // The root, for a text that may not be JSON at all, is no place.
    if pointer == "#" { None } else { Some(pointer) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        Json,
        extract::{FromRequestParts, Query},
        http::Request,
        response::IntoResponse,
    };
    use serde::{Deserialize, de::DeserializeOwned};
    use serde_json::Value;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Order {
        id: uuid::Uuid,
        lines: Vec<Line>,
        #[serde(default)]
        labels: BTreeMap<String, u8>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        Red,
        Green,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Line {
        count: u16,
        color: Option<Color>,
    }

    /// Returns the detail and the pointer of the problem that axum's rejection of this JSON becomes.
    async fn problem_of<T: DeserializeOwned + std::fmt::Debug>(json: &str) -> (String, Option<String>) {
        let response = Json::<T>::from_bytes(json.as_bytes()).expect_err("it is wrong").into_response();
        let text = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let problem = problem(StatusCode::BAD_REQUEST, std::str::from_utf8(&text).unwrap());
        let problem: Value = serde_json::to_value(&*problem.0).unwrap();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (text(&problem["detail"]).unwrap(), text(&problem["errors"][0]["pointer"]))
    }

    const ID: &str = "\"id\": \"0af76519-16cd-43dd-8448-eb211c80319c\"";

    #[tokio::test]
    async fn a_mistake_in_json_has_its_place_and_no_word_of_the_input() {
        for (json, pointer, detail) in [
            (format!("{{{ID}}}"), Some("#/lines"), "missing field `lines` at line 1"),
            (format!("{{{ID}, \"lines\": [{{}}]}}"), Some("#/lines/0/count"), "missing field `count`"),
            (
                format!("{{{ID}, \"lines\": [{{\"count\": \"sentinel, expected x\"}}]}}"),
                Some("#/lines/0/count"),
                "invalid type: string, expected u16",
            ),
            (
                format!("{{{ID}, \"lines\": [{{\"count\": 1234567}}]}}"),
                Some("#/lines/0/count"),
                "invalid value: integer, expected u16",
            ),
            (
                format!("{{{ID}, \"lines\": [{{\"count\": 1, \"color\": \"senti`nel\"}}]}}"),
                Some("#/lines/0/color"),
                "unknown variant, expected `red` or `green`",
            ),
            (
                format!("{{\"other\": 1, {ID}}}"),
                Some("#/other"),
                "unknown field, expected one of `id`, `lines`, `labels`",
            ),
            ("{\"id\": \"sentinel\"}".into(), Some("#/id"), "UUID parsing failed"),
            (format!("{{{ID}, \"labels\": {{\"my sentinel: x\": \"y\"}}}}"), None, "invalid type: string, expected u8"),
            ("\"sentinel\"".into(), None, "invalid type: string, expected struct Order"),
            (format!("{{{ID}, \"labels\": {{\"my sentinel\": x}}}}"), None, "JSON: expected value at line 1"),
            ("{\"id\": sentinel}".into(), Some("#/id"), "expected value at line 1 column 8"),
            ("sentinel".into(), None, "expected value at line 1 column 1"),
        ] {
            let (text, place) = problem_of::<Order>(&json).await;
            assert!(text.contains(detail), "{json}: {text}");
            assert_eq!(place.as_deref(), pointer, "{json}: {text}");
            assert!(!text.contains("senti") && !text.contains("1234567"), "{json}: {text}");
        }
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only their types matter")]
    struct Maps {
        #[serde(default)]
        numbers: BTreeMap<String, u8>,
        #[serde(default)]
        ids: BTreeMap<String, uuid::Uuid>,
        #[serde(default)]
        lines: BTreeMap<String, Line>,
    }

    #[tokio::test]
    async fn a_name_that_imitates_a_message_is_not_quoted() {
        for name in [
            "x: missing field `sentinel`",
            "x: missing field `sentinel",
            "x: duplicate field `sentinel` at line 1",
            "x: invalid type: sentinel",
            "x: invalid type: string sentinel",
            "x: invalid type: string \"",
            "x: invalid type: string \"y\", expected sentinel",
            "x: invalid value: integer `1`, expected sentinel",
            "x: invalid value: integer `",
            "x: invalid length 5, expected sentinel",
            "x: invalid length sentinel",
            "x: unknown variant `y`, expected sentinel",
            "x: unknown field `y`, there are no sentinel",
            "x: unknown field `sentinel",
        ] {
            for (member, value) in [
                ("numbers", json!("y")),
                ("numbers", json!(", expected sentinel")),
                ("numbers", json!(1234567)),
                ("ids", json!("`, expected sentinel`")),
                ("lines", json!({})),
                ("lines", json!({ "count": 1, "color": "`, expected sentinel" })),
            ] {
                let json = json!({ member: { name: value } }).to_string();
                let (text, _) = problem_of::<Maps>(&json).await;
                assert!(!text.contains("senti") && !text.contains("1234567"), "{json}: {text}");
                assert!(text.starts_with("Failed to deserialize the JSON body"), "{json}: {text}");
            }
        }
    }

    #[tokio::test]
    async fn a_mistake_in_the_query_or_the_path_does_not_quote_the_value() {
        let request = Request::get("/?count=sentinel").body(()).unwrap();
        let rejection = Query::<Line>::from_request_parts(&mut request.into_parts().0, &()).await.unwrap_err();
        let (detail, _) = text_of(&rejection.body_text());
        assert_eq!(detail, "Failed to deserialize query string: count: invalid digit found in string");
        for (text, expected) in [
            (
                "Invalid URL: Cannot parse `id` with value `sen`tinel` to a `u64`",
                "Invalid URL: Cannot parse `id` to a `u64`",
            ),
            ("Invalid URL: Cannot parse `sentinel` to a `u64`", "Invalid URL: Cannot parse the value to a `u64`"),
            ("Invalid URL: Cannot parse `id` with value `sentinel`: UUID `sentinel`", "Invalid URL: Cannot parse `id`"),
            (
                "Invalid URL: Cannot parse `id` with value `` to a `sentinel`: no UUID: found `sentinel` at 2",
                "Invalid URL: Cannot parse `id`: no UUID: found … at 2",
            ),
            (
                "Invalid URL: Cannot parse `senti nel with value ` to a `u64`",
                "Invalid URL: Cannot parse the value to a `u64`",
            ),
            (
                "Invalid URL: Cannot parse value at index 1 with value `sentinel` to a `u64`",
                "Invalid URL: Cannot parse value at index 1 to a `u64`",
            ),
            (
                "Invalid URL: unknown variant `sentinel with value `, expected `red` or `green`",
                "Invalid URL: unknown variant, expected `red` or `green`",
            ),
            ("Invalid URL: Invalid UTF-8 in `id`", "Invalid URL: Invalid UTF-8 in `id`"),
            (
                "Invalid URL: unknown variant `sentinel`, expected `red` or `green`",
                "Invalid URL: unknown variant, expected `red` or `green`",
            ),
            ("Invalid URL: no color: `sentinel`", "Invalid URL: no color: …"),
            ("a text of a handler with `words`", "a text of a handler with `words`"),
        ] {
            assert_eq!(text_of(text).0, expected);
        }
    }

    fn text_of(text: &str) -> (String, Value) {
        let problem = serde_json::to_value(&*problem(StatusCode::BAD_REQUEST, text).0).unwrap();
        (problem["detail"].as_str().unwrap().to_owned(), problem["errors"].clone())
    }
}
