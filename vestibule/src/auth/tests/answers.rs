//! Tests of the answers to a client.

use super::*;

#[tokio::test]
async fn each_answer_says_what_the_client_must_do() {
    let key = SigningKey::new("one", Algorithm::ES256);
    let server = JwksServer::start(&jwks([&key])).await;
    let guarded = Guarded::open(&server.config()).await.unwrap();
    let token = key.token();
    let raw = |value: &[u8]| vec![(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap())];
    let lower_case = raw(format!("bearer {token}").as_bytes());
    let admin = (header::HeaderName::from_static("x-admin"), HeaderValue::from_static("1"));
    let expired = key.sign(&key.header(), &claims_with("exp", json!(now() - 100)));
    let scoped = key.sign(&key.header(), &claims_with("scope", json!("orders:admin")));
    for (what, headers, status, challenge) in [
        ("a token", vec![bearer(&token)], 200, None),
        ("the scheme in lower case", lower_case, 200, None),
        ("the scope", vec![bearer(&scoped), admin.clone()], 200, None),
        ("nothing", vec![], 401, Some("Bearer realm=\"service\"")),
        ("another scheme", raw(b"Basic YTpi"), 401, Some("Bearer realm=\"service\"")),
        ("a scheme alone", raw(b"Bearer"), 401, Some("Bearer realm=\"service\"")),
        ("an expired token", vec![bearer(&expired)], 401, Some("Bearer realm=\"service\", error=\"invalid_token\"")),
        ("no ASCII", raw("Bearer é".as_bytes()), 401, Some("Bearer realm=\"service\", error=\"invalid_token\"")),
        ("a blank", raw(b"Bearer a b"), 401, Some("Bearer realm=\"service\", error=\"invalid_token\"")),
        ("an empty token", raw(b"Bearer  "), 401, Some("Bearer realm=\"service\", error=\"invalid_token\"")),
        (
            "two headers",
            vec![bearer(&token), bearer(&token)],
            400,
            Some("Bearer realm=\"service\", error=\"invalid_request\""),
        ),
        (
            "no scope",
            vec![bearer(&token), admin],
            403,
            Some("Bearer realm=\"service\", error=\"insufficient_scope\", scope=\"orders:admin\""),
        ),
    ] {
        let (got, headers) = guarded.get(&headers).await;
        let got_challenge = headers.get(header::WWW_AUTHENTICATE).map(|value| value.to_str().unwrap());
        assert_eq!((got.as_u16(), got_challenge), (status, challenge), "{what}");
        if status != 200 {
            assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json", "{what}");
        }
    }
    let page = guarded.metrics();
    for line in [
        "vestibule_auth_tokens_total{outcome=\"accepted\"} 4",
        "vestibule_auth_tokens_total{outcome=\"missing\"} 3",
        "vestibule_auth_tokens_total{outcome=\"refused\"} 5",
        "vestibule_auth_tokens_total{outcome=\"unknown_key\"} 0",
        "vestibule_auth_tokens_total{outcome=\"stale_keys\"} 0",
    ] {
        assert!(page.contains(line), "{line} is missing in {page}");
    }
}

#[tokio::test]
async fn a_token_that_was_verified_a_moment_ago_still_expires() {
    let key = SigningKey::new("one", Algorithm::ES256);
    let server = JwksServer::start(&jwks([&key])).await;
    let config = AuthConfig { leeway: Duration::ZERO, ..server.config() };
    let guarded = Guarded::open(&config).await.unwrap();
    let expires = now() + 5;
    let token = key.sign(&key.header(), &claims_with("exp", json!(expires)));
    assert_eq!(guarded.status(&token).await, 200);
    eventually("the expiry", now, |now| *now > expires).await;
    assert_eq!(guarded.status(&token).await, 401);
}
