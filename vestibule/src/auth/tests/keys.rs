//! Tests of the issuer's keys: those that are used, and when they are fetched.

use super::*;

#[test]
fn keys_that_are_of_no_use_are_left_out() {
    let (first, second) = (SigningKey::new("one", Algorithm::ES256), SigningKey::new("two", Algorithm::EdDSA));
    let with = |name: &str, value: Value| {
        let mut jwk = first.jwk();
        jwk[name] = value;
        jwk
    };
    let without = |name: &str| {
        let mut jwk = first.jwk();
        jwk.as_object_mut().unwrap().remove(name);
        jwk
    };
    for (what, jwk) in [
        ("for encryption", with("use", "enc".into())),
        ("no use", without("use")),
        ("another algorithm", with("alg", "ES384".into())),
        ("an algorithm with a secret", with("alg", "HS256".into())),
        ("an unknown algorithm", with("alg", "ES257".into())),
        ("an unknown curve", with("crv", "P-257".into())),
        ("an unknown type", with("kty", "XYZ".into())),
        ("no point", without("x")),
        ("a secret", json!({ "kty": "oct", "k": "c2VjcmV0", "use": "sig", "alg": "HS256", "kid": "one" })),
        ("no key", json!("one")),
    ] {
        let keys = set(&json!({ "keys": [jwk, second.jwk()] }));
        assert!(keys.ids().eq(["two"]), "{what}");
    }
    assert!(set(&json!({ "keys": [without("alg")] })).ids().eq(["one"]), "the algorithm follows from the curve");
    for document in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": []}", "<html>"] {
        assert!(KeySet::parse(document.as_bytes()).is_err(), "{document}");
    }
}

#[tokio::test]
async fn many_tokens_with_an_unknown_key_cause_one_fetch() {
    let (old, new) = (SigningKey::new("old", Algorithm::ES256), SigningKey::new("new", Algorithm::ES256));
    let server = JwksServer::start(&jwks([&old])).await;
    let guarded = Guarded::open(&server.config()).await.unwrap();
    let verified = old.token();
    assert_eq!(guarded.status(&verified).await, 200);
    server.publish(&jwks([&new]));
    let tokens: Vec<String> = (0..20).map(|_| new.token()).collect();
    let statuses = futures_util::future::join_all(tokens.iter().map(|token| guarded.status(token))).await;
    assert_eq!((statuses, server.requests()), (vec![200; 20], 2));
    for _ in 0..3 {
        assert_eq!(guarded.status(&verified).await, 401, "its key is gone, and so is what it has verified");
    }

    let unknown = SigningKey::new("unknown", Algorithm::ES256);
    for _ in 0..3 {
        let (status, headers) = guarded.get(&[bearer(&unknown.token())]).await;
        let pause: u64 = headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert_eq!(status, 429, "the issuer may have published it after the fetch");
        assert!((1..=30).contains(&pause), "{pause}");
    }
    assert_eq!(server.requests(), 2, "the next fetch for an unknown key comes 30 s later");
    assert!(guarded.metrics().contains("vestibule_auth_tokens_total{outcome=\"unknown_key\"} 3"));
}

#[tokio::test]
async fn a_token_whose_key_the_issuer_has_not_is_refused() {
    let (key, unknown) = (SigningKey::new("one", Algorithm::ES256), SigningKey::new("two", Algorithm::ES256));
    let server = JwksServer::start(&jwks([&key])).await;
    let guarded = Guarded::open(&server.config()).await.unwrap();
    assert_eq!(
        (guarded.status(&unknown.token()).await, server.requests()),
        (401, 2),
        "it was asked after the token came"
    );
    assert_eq!(guarded.status(&key.token()).await, 200);
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_again_stay_until_they_are_too_old() {
    let (key, unknown) = (SigningKey::new("one", Algorithm::ES256), SigningKey::new("two", Algorithm::ES256));
    let server = JwksServer::start(&jwks([&key])).await;
    let config = server.config();
    let guarded = Guarded::open(&config).await.unwrap();
    server.fail();
    let tokens = [unknown.token(), unknown.token()];
    let at_once = futures_util::future::join_all(tokens.iter().map(|token| guarded.status(token)));
    assert_eq!(at_once.await, [503, 503], "it cannot be looked up");
    assert_eq!((guarded.status(&key.token()).await, server.requests()), (200, 2));
    pass(config.max_stale + Duration::from_secs(1)).await;
    let (status, headers) = guarded.get(&[bearer(&key.token())]).await;
    assert_eq!((status.as_u16(), headers[header::RETRY_AFTER].to_str().unwrap()), (503, "30"), "the next fetch");
    assert_eq!(guarded.get(&[]).await.0, 401, "without a token, its keys do not matter");
}

#[tokio::test]
async fn nobody_waits_for_an_issuer_that_did_not_answer_the_last_time() {
    let (key, new) = (SigningKey::new("one", Algorithm::ES256), SigningKey::new("two", Algorithm::ES256));
    let server = JwksServer::start(&jwks([&key])).await;
    let guarded = Guarded::open(&server.config()).await.unwrap();
    server.fail();
    assert_eq!(guarded.status(&new.token()).await, 503);
    assert_eq!(server.requests(), 2);
    server.publish(&jwks([&key, &new]));
    pass(Duration::from_secs(31)).await;
    assert_eq!(guarded.status(&new.token()).await, 503, "it is asked, and nobody waits for its answer");
    guarded.fetched(2).await;
    assert_eq!((guarded.status(&new.token()).await, server.requests()), (200, 3));
}

#[tokio::test]
async fn a_key_that_a_node_of_the_issuer_has_not_heard_of_is_looked_up_again() {
    let (old, new) = (SigningKey::new("old", Algorithm::ES256), SigningKey::new("new", Algorithm::ES256));
    let server = JwksServer::start(&jwks([&old])).await;
    let guarded = Guarded::open(&server.config()).await.unwrap();
    server.publish(&jwks([&old, &new]));
    assert_eq!(guarded.status(&new.token()).await, 200);

    server.publish(&jwks([&old]));
    pass(Duration::from_secs(31)).await;
    let unknown = SigningKey::new("unknown", Algorithm::ES256);
    assert_eq!((guarded.status(&unknown.token()).await, server.requests()), (401, 3));
    assert_eq!(guarded.status(&new.token()).await, 401, "for all that is known, its key was removed");

    server.publish(&jwks([&old, &new]));
    pass(Duration::from_secs(31)).await;
    assert_eq!((guarded.status(&new.token()).await, server.requests()), (200, 4));
}

#[tokio::test]
async fn a_key_that_takes_the_place_of_another_one_is_taken_up() {
    for id in [Some("one"), None] {
        let [old, new, stranger] = [(); 3].map(|()| SigningKey::new("one", Algorithm::ES256));
        let document = |key: &SigningKey| {
            let mut jwk = key.jwk();
            jwk["kid"] = json!(id);
            json!({ "keys": [jwk] })
        };
        let token = |key: &SigningKey| key.sign(&Header { kid: id.map(str::to_owned), ..key.header() }, &claims());
        let server = JwksServer::start(&document(&old)).await;
        let guarded = Guarded::open(&server.config()).await.unwrap();
        assert_eq!(guarded.status(&token(&old)).await, 200);
        server.publish(&document(&new));
        assert_eq!((guarded.status(&token(&new)).await, server.requests()), (200, 2), "{id:?}");

        for _ in 0..3 {
            assert_eq!(guarded.status(&token(&stranger)).await, 401, "{id:?}: a signature that somebody made up");
        }
        assert_eq!(server.requests(), 2, "{id:?}: the next fetch comes 30 s later");
        server.fail();
        pass(Duration::from_secs(31)).await;
        for _ in 0..3 {
            assert_eq!(guarded.status(&token(&stranger)).await, 401, "{id:?}: also while the issuer is away");
        }
        assert_eq!((guarded.status(&token(&new)).await, server.requests()), (200, 3), "{id:?}");
    }
}

#[tokio::test]
async fn an_answer_to_an_older_fetch_replaces_no_newer_keys() {
    let (old, new) = (SigningKey::new("old", Algorithm::ES256), SigningKey::new("new", Algorithm::ES256));
    let server = JwksServer::start(&jwks([&old])).await;
    let config = server.config();
    let guarded = Guarded::open(&config).await.unwrap();
    let release = server.hold();
    pass(config.refresh_every * 2).await;
    eventually("the second fetch", || server.requests(), |requests| *requests == 2).await;
    server.publish(&jwks([&new]));
    assert_eq!((guarded.status(&new.token()).await, server.requests()), (200, 3));
    drop(release);
    guarded.fetched(3).await;
    assert_eq!(guarded.status(&new.token()).await, 200);
    assert_eq!(guarded.status(&old.token()).await, 401);
}

#[tokio::test]
async fn authentication_needs_the_keys_to_begin() {
    let key = SigningKey::new("one", Algorithm::ES256);
    let server = JwksServer::start(&jwks([&key])).await;
    let fault = async || Guarded::open(&server.config()).await.err().expect("there are no keys");
    server.publish(&json!({ "keys": [] }));
    assert_eq!(fault().await.exit, Exit::Malformed);
    server.publish(&json!({ "keys": [key.jwk()], "pad": "x".repeat(64 * 1024) }));
    let large = fault().await;
    assert_eq!(large.exit, Exit::Unavailable);
    assert!(large.problem.contains("larger than 64 KiB"), "{}", large.problem);
    server.fail();
    assert_eq!(fault().await.exit, Exit::Unavailable);
    let off = AuthConfig { issuer: String::new(), ..server.config() };
    let metrics = AuthMetrics::register(&MetricsRegistry::new("svc"));
    let (deadline, files) = (Instant::now(), &FileReads::default());
    let parts = AuthenticatorParts { config: &off, in_service: None, metrics: &metrics, deadline, files };
    assert!(Authenticator::open(parts).await.unwrap().is_none());
}

#[tokio::test]
async fn the_metadata_of_the_issuer_names_its_keys_unless_it_is_somebody_elses() {
    let key = SigningKey::new("one", Algorithm::ES256);
    let server = JwksServer::start(&jwks([&key])).await;
    let issuer = server.issuer();
    let keys = format!("http://{}/jwks.json", server.url.authority());
    let config = AuthConfig { issuer: issuer.clone(), ..config() };
    server.describe(json!({ "issuer": issuer, "jwks_uri": keys, "scopes_supported": [] }));
    let guarded = Guarded::open(&config).await.unwrap();
    assert_eq!(guarded.status(&key.sign(&key.header(), &claims_with("iss", json!(issuer)))).await, 200);

    let without_slash = issuer.trim_end_matches('/');
    for (what, metadata, exit) in [
        ("another issuer", json!({ "issuer": "https://other.example/", "jwks_uri": keys }), Exit::Malformed),
        ("not to the letter", json!({ "issuer": without_slash, "jwks_uri": keys }), Exit::Malformed),
        ("no issuer", json!({ "jwks_uri": keys }), Exit::Malformed),
        ("no keys", json!({ "issuer": issuer }), Exit::Malformed),
        ("no TLS", json!({ "issuer": issuer, "jwks_uri": "http://keys.example/" }), Exit::Malformed),
        ("a password", json!({ "issuer": issuer, "jwks_uri": "https://a:b@keys.example/" }), Exit::Malformed),
        ("a redirect", json!(keys), Exit::Unavailable),
        ("too long", json!({ "issuer": issuer, "jwks_uri": keys, "pad": "x".repeat(64 * 1024) }), Exit::Unavailable),
        ("nothing", Value::Null, Exit::Malformed),
    ] {
        server.describe(metadata);
        let fault = Guarded::open(&config).await.err().unwrap_or_else(|| panic!("{what} is accepted"));
        assert_eq!((fault.exit, &*fault.remedy), (exit, "check auth.issuer, and the network to the issuer"), "{what}");
    }
    server.describe(None);
    assert_eq!(Guarded::open(&config).await.err().map(|fault| fault.exit), Some(Exit::Unavailable));
    let secure = |jwks_url: &str| {
        let config = AuthConfig { issuer: jwks_url.into(), ..config.clone() };
        config.metadata_url().is_some_and(|url| url.is_https())
    };
    assert!(secure("https://login.example/realms/main") && !secure("urn:x") && !secure("https://login.example/?a=b"));
}

#[test]
fn the_version_of_a_set_is_that_of_its_keys() {
    let (one, other) = (SigningKey::new("one", Algorithm::ES256), SigningKey::new("other", Algorithm::ES256));
    let version = |document: Value| set(&document).version;
    let both = version(jwks([&one, &other]));
    assert_eq!(version(jwks([&other, &one])), both, "another node of the issuer may write another order");
    assert_eq!(version(json!({ "keys": [one.jwk(), other.jwk(), { "use": "enc" }], "more": 1 })), both);
    assert_ne!(version(jwks([&one])), both);
}
