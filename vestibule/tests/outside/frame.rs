//! The frame of every route: its limits, its headers, and what becomes of errors.

use crate::{
    captured_log::CapturedLog,
    frame_service::{get_with, in_pieces, member, post_body, send, start, trickle},
};
use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    http::Version,
};
use serde_json::json;
use std::{net::SocketAddr, time::Duration};
use vestibule::config::ProxyNetwork;

#[tokio::test]
async fn every_body_may_be_as_long_as_the_limit_and_no_longer_also_if_it_does_not_tell_its_length() {
    let service = start(|config| config.server.body_limit = "3 MB".parse().expect("a size")).await;
    let post = async |path, body| post_body(&service, path, body).await;
    assert_eq!(post("/length", vec![b' '; 3_000_000].into()).await, (200, "3000000".into()));
    assert_eq!(post("/length", in_pieces(3)).await, (200, "3000000".into()));
    for body in [vec![b' '; 3_000_001].into(), in_pieces(4)] {
        let (status, text) = post("/length", body).await;
        assert_eq!(status, 413);
        assert_eq!(member(&text, "detail"), "the body is longer than 3000000 bytes: send less");
    }
    assert_eq!(post("/large", in_pieces(4)).await, (200, "4000000".into()), "the route has a limit of its own");
    assert_eq!(post("/large", in_pieces(5)).await.0, 413);
    assert_eq!(post("/large", vec![b' '; 4_000_001].into()).await.0, 413);
    assert_eq!(post("/ignores", in_pieces(4)).await.0, 200, "nobody reads it");
}

#[tokio::test]
async fn a_handler_that_answers_itself_learns_that_a_body_is_too_long() {
    let service = start(|config| config.server.body_limit = "3 MB".parse().expect("a size")).await;
    for path in ["/rejection", "/source"] {
        assert_eq!(post_body(&service, path, in_pieces(3)).await, (200, "3000000".into()));
        for body in [vec![b' '; 3_000_001].into(), in_pieces(4)] {
            assert_eq!(post_body(&service, path, body).await.0, 413, "{path}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_keeps_the_headers_of_the_layers_and_not_those_of_the_error() {
    let service = start(|config| config.server.body_limit = "3 MB".parse().expect("a size")).await;
    let (head, text) = send(&service, Request::post("/layered").body(in_pieces(4)).unwrap()).await;
    assert_eq!((head.status.as_u16(), member(&text, "status")), (413, json!(413)));
    assert_eq!(member(&text, "detail"), "the body is longer than 3000000 bytes: send less");
    assert_eq!(head.headers["content-type"], "application/problem+json");
    assert_eq!(head.headers["access-control-allow-origin"], "*");
    assert!(!head.headers.contains_key("retry-after") && !head.headers.contains_key("content-language"), "{head:?}");
    if let Some(length) = head.headers.get("content-length") {
        assert_eq!(length, &text.len().to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_503_and_a_body_that_trickles_is_408() {
    let service = start(|config| config.server.request_timeout = Duration::from_secs(10)).await;
    let (head, text) = get_with(&service, "/never", &[]).await;
    assert_eq!(head.status, 503);
    assert_eq!(member(&text, "detail"), "the request took too long; try again soon");
    assert!(["1", "2", "3"].contains(&head.headers["retry-after"].to_str().unwrap()));

    for (method, may_try_again) in [("PUT", true), ("DELETE", true), ("POST", false), ("PATCH", false)] {
        let request = Request::builder().method(method).uri("/never").body(Body::empty()).unwrap();
        let (head, text) = send(&service, request).await;
        assert_eq!((head.status.as_u16(), head.headers.contains_key("retry-after")), (503, may_try_again), "{method}");
        assert_eq!(text.contains("try again"), may_try_again, "{text}");
    }

    let (status, text) = post_body(&service, "/length", trickle()).await;
    assert_eq!(status, 408);
    assert_eq!(member(&text, "detail"), "the body of the request did not arrive in time");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_has_given_the_body_up_is_slow_itself() {
    let service = start(|config| config.server.request_timeout = Duration::from_secs(10)).await;
    let (log, _guard) = CapturedLog::start();
    assert_eq!(post_body(&service, "/gives_up", trickle()).await.0, 503);
    let line = log.take().into_iter().find(|event| event["target"] == "vestibule::access").expect("a line");
    assert_eq!(line["fields"]["error.type"], "request_timeout");
}

#[tokio::test(start_paused = true)]
async fn a_route_may_have_a_timeout_of_its_own() {
    let service = start(|config| config.server.request_timeout = Duration::from_secs(10)).await;
    let started = tokio::time::Instant::now();
    assert_eq!(get_with(&service, "/never/short", &[]).await.0.status, 503);
    assert_eq!(started.elapsed().as_secs(), 2);
    assert_eq!(get_with(&service, "/nap", &[]).await.0.status, 503);
    assert_eq!(get_with(&service, "/nap/long", &[]).await.0.status, 200);
}

#[tokio::test]
async fn all_errors_are_problems_that_name_the_request() {
    let service = start(|_| {}).await;
    let id = "0af7651916cd43dd8448eb211c80319c";
    for (path, status) in [("/nowhere", 404), ("/length", 405), ("/panic", 500), ("/busy", 503), ("/client", 500)] {
        let (head, text) = get_with(&service, path, &[("x-request-id", id)]).await;
        assert_eq!((head.status.as_u16(), member(&text, "status")), (status, json!(status)), "{path}");
        assert_eq!(head.headers["content-type"], "application/problem+json");
        assert_eq!(member(&text, "instance"), format!("urn:trace:{id}"));
        assert_eq!(head.headers.contains_key("allow"), status == 405);
    }
}

#[tokio::test]
async fn a_status_that_ends_no_request_is_500_and_a_switch_of_the_protocol_is_one_over_http_2() {
    let service = start(|_| {}).await;
    for (path, version, status) in [
        ("/early_hints", Version::HTTP_11, 500),
        ("/early_hints", Version::HTTP_2, 500),
        ("/switches", Version::HTTP_11, 101),
        ("/switches", Version::HTTP_2, 500),
    ] {
        let (log, guard) = CapturedLog::start();
        let request = Request::get(path).version(version).body(Body::empty()).unwrap();
        assert_eq!(send(&service, request).await.0.status.as_u16(), status, "{path} {version:?}");
        drop(guard);
        let events = log.take();
        let access = events.iter().find(|event| event["target"] == "vestibule::access").expect("a line");
        assert_eq!(access["fields"]["http.response.status_code"], status);
        let has_cause = events.iter().any(|event| event["fields"]["message"] == "a request failed");
        assert_eq!(has_cause, status == 500, "{events:#?}");
    }
}

#[tokio::test]
async fn a_route_that_says_when_to_come_back_keeps_its_word() {
    let (head, text) = get_with(&start(|_| {}).await, "/maintenance", &[]).await;
    assert_eq!((head.status.as_u16(), member(&text, "detail")), (503, json!("at noon")));
    assert_eq!(head.headers.get_all("retry-after").iter().collect::<Vec<_>>(), ["120"]);
}

#[tokio::test]
async fn a_bare_503_invites_to_repeat_a_request_only_if_that_may_be_done_twice() {
    let service = start(|_| {}).await;
    for (method, may_be_repeated) in
        [("GET", true), ("PUT", true), ("DELETE", true), ("TRACE", true), ("POST", false), ("PATCH", false)]
    {
        for path in ["/busy", "/busy/in_words"] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            let (head, text) = send(&service, request).await;
            let has_time = head.headers.contains_key("retry-after");
            assert_eq!((head.status.as_u16(), has_time), (503, may_be_repeated), "{method} {path}");
            assert_eq!(text.contains("try again"), may_be_repeated && path == "/busy", "{text}");
        }
    }
}

#[tokio::test]
async fn a_range_that_is_refused_keeps_the_length_of_the_whole() {
    let (head, text) = get_with(&start(|_| {}).await, "/part", &[]).await;
    assert_eq!((head.status.as_u16(), member(&text, "status")), (416, json!(416)));
    assert_eq!(head.headers["content-range"], "bytes */47");
}

#[tokio::test]
async fn an_error_that_a_layer_of_the_service_has_compressed_stays_as_it_is() {
    let (head, text) = get_with(&start(|_| {}).await, "/gzipped", &[]).await;
    assert_eq!(
        (head.status.as_u16(), &head.headers["content-encoding"], text.as_str()),
        (502, &"gzip".parse().unwrap(), "\u{1}\u{2}\u{3}")
    );
}

#[tokio::test]
async fn a_mistake_in_a_json_body_names_its_place_and_does_not_repeat_the_value() {
    let service = start(|_| {}).await;
    let request = Request::post("/amount").header("content-type", "application/json");
    let (head, text) = send(&service, request.body("{\"amount\": \"sentinel\"}".into()).unwrap()).await;
    assert_eq!(head.status, 422);
    assert_eq!(member(&text, "errors")[0]["pointer"], "#/amount");
    assert!(member(&text, "errors")[0]["detail"].as_str().unwrap().starts_with("invalid type: string, expected u32"));
    assert!(!text.contains("sentinel"), "{text}");
}

#[tokio::test]
async fn a_body_that_is_encoded_is_415() {
    let service = start(|_| {}).await;
    for (encodings, status) in [
        (&["gzip"][..], 415),
        (&["br, identity"], 415),
        (&["identity", "gzip"], 415),
        (&["identity"], 200),
        (&["Identity", "identity"], 200),
    ] {
        let mut request = Request::post("/length");
        for encoding in encodings {
            request = request.header("content-encoding", *encoding);
        }
        let (head, _) = send(&service, request.body("a body".into()).unwrap()).await;
        assert_eq!(head.status, status, "{encodings:?}");
        let accepted = head.headers.get("accept-encoding").map(|encoding| encoding.to_str().unwrap());
        assert_eq!(accepted, if status == 415 { Some("identity") } else { None }, "{encodings:?}");
    }
}

#[tokio::test]
async fn each_response_has_headers_for_security_unless_its_route_has_set_them() {
    let service = start(|_| {}).await;
    for path in ["/orders/1", "/nowhere"] {
        let (head, _) = get_with(&service, path, &[]).await;
        assert_eq!(head.headers["cache-control"], "no-store");
        assert_eq!(head.headers["content-security-policy"], "default-src 'none'; frame-ancestors 'none'");
        assert_eq!(head.headers["x-content-type-options"], "nosniff");
        assert_eq!(head.headers["referrer-policy"], "no-referrer");
        assert!(!head.headers.contains_key("strict-transport-security"), "the connection has no TLS");
    }
    let (head, _) = get_with(&service, "/html", &[]).await;
    assert_eq!(head.headers["cache-control"], "max-age=60");
    assert_eq!(head.headers["content-security-policy"], "default-src 'self'");
    assert_eq!(head.headers.get_all("cache-control").iter().count(), 1);
}

#[tokio::test]
async fn a_long_response_is_compressed_for_a_client_that_accepts_it() {
    let (on, off) = (start(|_| {}).await, start(|config| config.server.compression = false).await);
    for (service, path, accepted, is_compressed) in [
        (&on, "/long", "br, gzip", true),
        (&on, "/long", "gzip;q=0", false),
        (&on, "/long", "br", false),
        (&on, "/long/unchanged", "gzip", false),
        (&on, "/long/unchanged/too", "gzip", false),
        (&on, "/events", "gzip", false),
        (&on, "/orders/1", "gzip", false),
        (&on, "/nowhere", "gzip", false),
        (&off, "/long", "gzip", false),
    ] {
        let (head, text) = get_with(service, path, &[("accept-encoding", accepted)]).await;
        assert_eq!(head.headers.contains_key("content-encoding"), is_compressed, "{path} {accepted}");
        assert!(head.headers.contains_key("vary") || !is_compressed);
        assert_eq!(text.starts_with("\u{1f}"), is_compressed, "the first byte of gzip");
    }
    let (head, _) = get_with(&on, "/long", &[("accept-encoding", "br"), ("accept-encoding", "gzip")]).await;
    assert_eq!(head.headers["content-encoding"], "gzip", "two lines of one header");
}

#[tokio::test]
async fn a_response_with_a_strong_tag_is_not_compressed_and_keeps_its_tag() {
    let service = start(|_| {}).await;
    for (path, tag, encoding) in [("/long/tagged", "\"1\"", None), ("/long/tagged/weakly", "W/\"1\"", Some("gzip"))] {
        let (head, _) = get_with(&service, path, &[("accept-encoding", "gzip")]).await;
        let encoded = head.headers.get("content-encoding").map(|encoding| encoding.to_str().unwrap());
        assert_eq!((head.headers["etag"].to_str().unwrap(), encoded), (tag, encoding), "{path}");
    }
}

#[tokio::test]
async fn the_id_of_a_request_is_its_trace_id_and_a_client_may_choose_it() {
    let service = start(|_| {}).await;
    let id = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{id}-b7ad6b7169203331-01");
    let other = "4bf92f3577b34da6a3ce929d0e0e4736";
    let uuid = "0AF76519-16cd-43dd-8448-eb211c80319c";
    for (headers, id_is_taken, parent_is_taken) in [
        (&[("traceparent", parent.as_str())][..], true, true),
        (&[("traceparent", &parent), ("x-request-id", other)], true, true),
        (&[("x-request-id", id)], true, false),
        (&[("x-request-id", uuid)], true, false),
        (&[("traceparent", "malformed"), ("x-request-id", id)], true, false),
        (&[("traceparent", &parent), ("traceparent", &parent)], false, false),
        (&[("traceparent", &parent.replace("00-0a", "00-0A"))], false, false),
        (&[("x-request-id", "an id of somebody")], false, false),
        (&[("x-request-id", "00000000000000000000000000000000")], false, false),
        (&[], false, false),
    ] {
        let (head, text) = get_with(&service, "/ids", headers).await;
        let given = head.headers["x-request-id"].to_str().unwrap();
        assert_eq!(given == id, id_is_taken, "{headers:?}: {given}");
        assert_eq!((given.len(), member(&text, "id")), (32, json!(given)), "the handler has the same id");
        let onward = member(&text, "parent");
        let onward = onward.as_str().unwrap();
        assert_eq!(onward == parent, parent_is_taken, "{headers:?}: {onward}");
        assert_eq!(&onward[3..35], given, "what the request causes has it too");
    }
    let first = get_with(&service, "/ids", &[]).await.1;
    assert_ne!(first, get_with(&service, "/ids", &[]).await.1);
}

#[tokio::test]
async fn only_a_trusted_proxy_may_say_who_the_client_is() {
    let trusting = start(|config| {
        config.server.trusted_proxies =
            ["10.0.0.0/8", "2001:db8::1"].iter().filter_map(|text| ProxyNetwork::parse(text)).collect();
    })
    .await;
    let trusts_nobody = start(|_| {}).await;
    for (service, peer, expected) in [
        (&trusting, "10.1.2.3:80", "192.0.2.7"),
        (&trusting, "[2001:db8::1]:80", "192.0.2.7"),
        (&trusting, "192.0.2.1:80", "192.0.2.1"),
        (&trusts_nobody, "10.1.2.3:80", "10.1.2.3"),
    ] {
        let mut request =
            Request::get("/client").header("x-forwarded-for", "10.9.9.9, 192.0.2.7").body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        assert_eq!(send(service, request).await.1, expected, "{peer}");
    }
}
