//! Tests of tokens, of the issuer's keys, and of the layer around routes.

mod issuer;

use self::issuer::{AUDIENCE, JwksServer, SigningKey, claims, claims_with, config, config_for, jwks, now};
use super::{
    access_token::AccessToken,
    authenticator::{Authenticator, AuthenticatorParts, authenticate},
    key_set::KeySet,
    metrics::AuthMetrics,
    scope::RequireScope,
    token::{MAX_TOKEN, TokenFault, TokenRules},
};
use crate::{
    blocking_reads::FileReads,
    config::{AudienceClaim, AuthConfig, TokenAlgorithm},
    exit::{Exit, Fault},
    metrics::{MetricsRegistry, exposition_format::ExpositionFormat},
    testing::eventually::eventually,
};
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    middleware,
    routing::get,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tower::ServiceExt;

fn set(document: &Value) -> KeySet {
    KeySet::parse(document.to_string().as_bytes()).expect("it has a key")
}

/// An authenticator, and the page of its metrics.
struct Guarded {
    authenticator: Arc<Authenticator>,
    registry: MetricsRegistry,
}

impl Guarded {
    async fn open(config: &AuthConfig) -> Result<Self, Fault> {
        let registry = MetricsRegistry::new("svc");
        let metrics = AuthMetrics::register(&registry);
        let deadline = Instant::now() + Duration::from_secs(5);
        let files = &FileReads::default();
        let parts = AuthenticatorParts { config, in_service: None, metrics: &metrics, deadline, files };
        Ok(Self { authenticator: Authenticator::open(parts).await?.expect("it is on"), registry })
    }

    /// Sends a request to a route that shows its subject.
    async fn get(&self, headers: &[(header::HeaderName, HeaderValue)]) -> (StatusCode, HeaderMap) {
        let whoami = async |token: AccessToken, headers: HeaderMap| {
            assert!(!format!("{token:?} {headers:?}").contains("eyJ"), "a token can be printed");
            token.subject().to_owned()
        };
        let routes = Router::new()
            .route("/", get(whoami))
            .route("/admin", get(async || "").layer(RequireScope::new("orders:admin")))
            .layer(middleware::from_fn_with_state(self.authenticator.clone(), authenticate));
        let path = if headers.iter().any(|(name, _)| name == "x-admin") { "/admin" } else { "/" };
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, value.clone());
        }
        let response = routes.oneshot(request).await.unwrap();
        (response.status(), response.headers().clone())
    }

    async fn status(&self, token: &str) -> u16 {
        self.get(&[bearer(token)]).await.0.as_u16()
    }

    fn metrics(&self) -> String {
        self.registry.encode(ExpositionFormat::PrometheusText)
    }

    /// Waits until the keys were fetched this many times.
    async fn fetched(&self, times: usize) {
        let wanted = format!("vestibule_auth_key_fetches_total{{outcome=\"fetched\"}} {times}");
        eventually(&wanted, || self.metrics(), |metrics| metrics.contains(&wanted)).await;
    }
}

fn bearer(token: &str) -> (header::HeaderName, HeaderValue) {
    (header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())
}

/// Lets this time pass at once.
async fn pass(time: Duration) {
    // A task that was only spawned has set no timer yet.
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[test]
fn a_token_of_each_algorithm_is_accepted() {
    for (algorithm, name) in [
        (Algorithm::ES256, TokenAlgorithm::ES256),
        (Algorithm::RS256, TokenAlgorithm::RS256),
        (Algorithm::EdDSA, TokenAlgorithm::EdDSA),
    ] {
        let key = SigningKey::new("one", algorithm);
        let keys = set(&jwks([&key]));
        let claims = TokenRules::of(&config_for(name)).verify(&key.token(), &keys);
        let claims = claims.unwrap_or_else(|fault| panic!("{name:?}: {fault:?}"));
        assert_eq!((&*claims.subject, &claims.scopes[..]), ("ada", &["orders:read".into(), "orders:write".into()][..]));
        let others = if name == TokenAlgorithm::ES256 { TokenAlgorithm::EdDSA } else { TokenAlgorithm::ES256 };
        assert!(TokenRules::of(&config_for(others)).verify(&key.token(), &keys).is_err(), "{name:?}");
    }
}

#[test]
fn a_token_is_refused_unless_everything_in_it_is_right() {
    let (key, other) = (SigningKey::new("one", Algorithm::ES256), SigningKey::new("one", Algorithm::ES256));
    let rsa = SigningKey::new("rsa", Algorithm::RS256);
    let keys = set(&jwks([&key, &rsa]));
    let rules = TokenRules::of(&config());
    let verify = |token: &str| rules.verify(token, &keys).map(|claims| claims.subject);
    let with_header = |change: &dyn Fn(&mut Header)| {
        let mut header = key.header();
        change(&mut header);
        key.sign(&header, &claims())
    };
    let with_claim = |name: &str, value: Value| key.sign(&key.header(), &claims_with(name, value));

    let valid = key.token();
    assert_eq!(verify(&valid), Ok("ada".into()));
    for (what, token) in [
        ("JWT as its type", with_header(&|header| header.typ = Some("JWT".into()))),
        ("a media type as its type", with_header(&|header| header.typ = Some("application/AT+JWT".into()))),
        ("one audience of several", with_claim("aud", json!(["other", "orders"]))),
        ("an expiry within the leeway", with_claim("exp", json!(now() - 10))),
        ("a beginning within the leeway", with_claim("nbf", json!(now() + 10))),
        ("8 KiB", padded(&key, MAX_TOKEN)),
    ] {
        assert_eq!(verify(&token), Ok("ada".into()), "{what}");
    }

    let parts: Vec<&str> = valid.split('.').collect();
    let encode = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let unsigned = |alg: &str| format!("{}.{}.", encode(json!({ "alg": alg, "typ": "JWT", "kid": "one" })), parts[1]);
    let modulus = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let secret = EncodingKey::from_secret(modulus.as_bytes()).unwrap();
    let hmac = Header { kid: Some("rsa".into()), ..Header::new(Algorithm::HS256) };
    for (what, token) in [
        ("nothing", String::new()),
        ("no parts", "abc".into()),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{valid}.{}", parts[2])),
        ("five parts", "a.b.c.d.e".into()),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("another signature", format!("{}.{}.{}", parts[0], parts[1], other.token().rsplit('.').next().unwrap())),
        ("other claims", format!("{}.{}.{}", parts[0], encode(claims_with("sub", "eve".into())), parts[2])),
        ("alg none", unsigned("none")),
        ("alg None", unsigned("None")),
        ("an unknown alg", unsigned("ES257")),
        ("the public key as a secret", jsonwebtoken::encode(&hmac, &claims(), &secret).unwrap()),
        ("the key of another algorithm", with_header(&|header| header.kid = Some("rsa".into()))),
        ("another key of this id", other.token()),
        ("no type", with_header(&|header| header.typ = None)),
        ("the type of an id token", with_header(&|header| header.typ = Some("id+jwt".into()))),
        ("crit", with_header(&|header| header.crit = Some(vec!["exp".into()]))),
        ("crit of b64", {
            let mut header = key.header();
            header.crit = Some(vec!["b64".into()]);
            header.extras.insert("b64", true);
            key.sign(&header, &claims())
        }),
        ("an empty crit", with_header(&|header| header.crit = Some(Vec::new()))),
        ("an expiry in the past", with_claim("exp", json!(now() - 100))),
        ("an expiry that is text", with_claim("exp", json!("never"))),
        ("no expiry", with_claim("exp", Value::Null)),
        ("a beginning in the future", with_claim("nbf", json!(now() + 100))),
        ("a beginning that is text", with_claim("nbf", json!("always"))),
        ("another issuer", with_claim("iss", json!("https://issuer.example"))),
        ("a list of issuers", with_claim("iss", json!(["https://issuer.example/"]))),
        ("no issuer", with_claim("iss", Value::Null)),
        ("another audience", with_claim("aud", json!("orders2"))),
        ("no audience", with_claim("aud", Value::Null)),
        ("no audience in the list", with_claim("aud", json!([]))),
        ("no subject", with_claim("sub", Value::Null)),
        ("an empty subject", with_claim("sub", json!(""))),
        ("a subject that is a number", with_claim("sub", json!(7))),
        ("a proof that nobody here understands", with_claim("cnf", json!({ "jkt": "abc" }))),
        ("more than 8 KiB", padded(&key, MAX_TOKEN + 2)),
    ] {
        let verified = verify(&token);
        assert!(matches!(verified, Err(TokenFault::Invalid(_) | TokenFault::WrongKeys(_))), "{what}: {verified:?}");
    }
    let unknown = with_header(&|header| header.kid = Some("two".into()));
    assert_eq!(verify(&unknown), Err(TokenFault::UnknownKey));
    let without_id = with_header(&|header| header.kid = None);
    assert!(matches!(verify(&without_id), Err(TokenFault::WrongKeys(_))), "a new key has an id, as these have");
    assert!(rules.verify(&without_id, &set(&jwks([&key]))).is_ok(), "there is one key only");
}

#[test]
fn keys_of_one_id_are_told_apart_by_their_algorithms_and_by_the_signature() {
    let key = |algorithm| SigningKey::new("one", algorithm);
    let (first, second, rsa) = (key(Algorithm::ES256), key(Algorithm::ES256), key(Algorithm::RS256));
    let rules = TokenRules::of(&config());
    for id in [Some("one"), None] {
        let mut document = jwks([&first, &rsa, &second]);
        for jwk in document["keys"].as_array_mut().unwrap() {
            jwk["kid"] = json!(id);
        }
        let keys = set(&document);
        let verify = |key: &SigningKey, claims: &Value| {
            let token = key.sign(&Header { kid: id.map(str::to_owned), ..key.header() }, claims);
            rules.verify(&token, &keys).map(|claims| claims.subject)
        };
        for key in [&first, &second, &rsa] {
            assert_eq!(verify(key, &claims()), Ok("ada".into()), "{id:?}");
            let expired = verify(key, &claims_with("exp", json!(now() - 100)));
            assert_eq!(expired, Err(TokenFault::Invalid("it has expired")), "{id:?}");
        }
        let unknown = verify(&key(Algorithm::ES256), &claims());
        assert_eq!(unknown, Err(TokenFault::WrongKeys("its signature cannot be verified")), "{id:?}");
    }
}

#[test]
fn a_token_without_a_type_or_with_the_audience_as_its_client_is_accepted_if_the_configuration_says_so() {
    let key = SigningKey::new("one", Algorithm::ES256);
    let keys = set(&jwks([&key]));
    let untyped = |typ: Option<&str>| Header { typ: typ.map(str::to_owned), ..key.header() };
    // The access tokens of Amazon Cognito: no `typ`, no `aud`.
    let of_client = |client: Value| {
        let mut claims = claims_with("client_id", client);
        claims["token_use"] = json!("access");
        claims.as_object_mut().unwrap().remove("aud");
        key.sign(&untyped(None), &claims)
    };
    let mut config = AuthConfig { require_type: false, ..config() };
    let verify = |config: &AuthConfig, token: &str| TokenRules::of(config).verify(token, &keys).is_ok();
    assert!(verify(&config, &key.sign(&untyped(None), &claims())));
    assert!(!verify(&config, &key.sign(&untyped(Some("id+jwt")), &claims())));
    assert!(!verify(&config, &of_client(json!(AUDIENCE))), "it has no audience");
    config.audience_claim = AudienceClaim::ClientId;
    assert!(verify(&config, &of_client(json!(AUDIENCE))));
    for (what, token) in [
        ("another client", of_client(json!("orders2"))),
        ("no client", of_client(Value::Null)),
        ("a list of clients", of_client(json!([AUDIENCE]))),
        ("an id token, whose `aud` is the client", key.sign(&untyped(None), &claims())),
    ] {
        assert!(!verify(&config, &token), "{what}");
    }
}

/// Returns a valid token of at least `length` bytes, and few more.
fn padded(key: &SigningKey, length: usize) -> String {
    let token = |pad: usize| key.sign(&key.header(), &claims_with("pad", "x".repeat(pad).into()));
    let pad = (0..).map(|step| (length - token(0).len()) * 3 / 4 + step - 4).find(|pad| token(*pad).len() >= length);
    token(pad.unwrap())
}

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
    assert_eq!((status.as_u16(), headers.contains_key(header::RETRY_AFTER)), (503, true));
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
