//! Tests of what a token must be like.

use super::*;

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
