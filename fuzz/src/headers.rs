//! Headers of clients, of proxies and of scrapers: their addresses, the ids of requests, and the formats that are wanted.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;
use vestibule::{config::ProxyHeader, fuzzing};

const TRUSTED: [&str; 3] = ["10.0.0.0/8", "fd00::/8", "::ffff:192.0.2.0/120"];

/// Checks each line as a value of these headers.
pub(crate) fn check(data: &[u8]) -> bool {
    let values: Vec<_> =
        data.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    for (header, name) in [(ProxyHeader::XForwardedFor, "x-forwarded-for"), (ProxyHeader::Forwarded, "forwarded")] {
        addresses(header, &headers(name, &values));
    }
    ids(&values);
    formats(&values);
    true
}

fn headers(name: &'static str, values: &[HeaderValue]) -> HeaderMap {
    values.iter().map(|value| (HeaderName::from_static(name), value.clone())).collect()
}

/// Checks that only proxies that are trusted are believed, and that a client cannot choose its address.
fn addresses(header: ProxyHeader, headers: &HeaderMap) {
    let (proxy, stranger): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [198, 51, 100, 1].into());
    let client = |peer, headers: &HeaderMap| fuzzing::client_address(peer, &TRUSTED, header, headers);
    assert_eq!(client(stranger, headers), stranger);
    let seen = client(proxy, headers);
    assert_eq!(seen, seen.to_canonical());
    // A proxy writes its client's address at the end, in a line of its own or behind a comma. All before it is the
    // client's word.
    let written = match header {
        ProxyHeader::XForwardedFor => "198.51.100.1",
        ProxyHeader::Forwarded => "for=198.51.100.1",
    };
    let name = match header {
        ProxyHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        ProxyHeader::Forwarded => HeaderName::from_static("forwarded"),
    };
    let mut own_line = headers.clone();
    own_line.append(&name, HeaderValue::from_static(written));
    assert_eq!(client(proxy, &own_line), stranger);
    let mut appended = HeaderMap::new();
    for value in headers.get_all(&name) {
        let line = [value.as_bytes(), b", ", written.as_bytes()].concat();
        appended.append(&name, HeaderValue::from_bytes(&line).expect("both parts are valid"));
    }
    assert!(appended.is_empty() || client(proxy, &appended) == stranger, "a client chose its address: {appended:?}");
}

/// Checks that the order in which a scraper names formats means nothing.
fn formats(values: &[HeaderValue]) {
    let mut accept = headers("accept", values);
    let wanted = fuzzing::is_openmetrics_wanted(&accept);
    accept =
        accept.get_all("accept").iter().rev().map(|value| (HeaderName::from_static("accept"), value.clone())).collect();
    assert_eq!(fuzzing::is_openmetrics_wanted(&accept), wanted, "{accept:?}");
}

/// Checks that an id is 32 digits of the client, or new.
fn ids(values: &[HeaderValue]) {
    for name in ["x-request-id", "traceparent"] {
        let headers = headers(name, values);
        let id = fuzzing::request_id(headers.clone());
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
            "{id}"
        );
        assert_ne!(id, "0".repeat(32));
        if fuzzing::request_id(headers) != id {
            continue;
        }
        // It is the client's.
        let text = String::from_utf8_lossy(values.first().expect("it has an id").as_bytes()).to_ascii_lowercase();
        assert!(text.replace('-', "").contains(&id), "{id} is not in {text}");
        let again = self::headers("x-request-id", &[HeaderValue::from_str(&id).expect("it is text")]);
        assert_eq!(fuzzing::request_id(again), id);
    }
}
