mod certificate_forms;
mod key_forms;
mod login_forms;
mod parts_of_kinds;

use super::*;
use crate::secrets::{
    id::VersionId,
    kind::Kind,
    version::{SecretValue, SecretValues, Stage},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::KeyPair;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;

fn value(text: &str, version: &str) -> SecretValue {
    SecretValue { text: text.to_owned().into(), version: VersionId::new(version), created: None, lease: None }
}

fn read<K: Kind>(text: &str) -> Result<K, Malformed> {
    K::read(&SecretValues::new(value(text, "v1"), BTreeMap::new(), None))
}

/// The curve P-256, in DER.
const CURVE: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// Returns a key of this curve in SEC 1.
fn sec1(key: &KeyPair) -> Vec<u8> {
    let pkcs8 = key.serialize_der();
    let (secret, public) = (&pkcs8[36..68], &pkcs8[68..138]);
    [&[0x30, 0x77, 2, 1, 1, 4, 32], secret, &[0xa0, 10], &CURVE, public].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

#[test]
fn a_login_is_the_json_of_rds_or_a_bare_password() {
    let login: Login =
        read(r#"{"engine":"postgres","username":"app","password":"p","host":"db","port":6432,"dbname":"n"}"#).unwrap();
    assert_eq!(login.username.as_deref(), Some("app"));
    assert_eq!(login.password.as_ref().unwrap().expose_secret(), "p");
    assert_eq!((login.host.as_deref(), login.port, login.dbname.as_deref()), (Some("db"), Some(6432), Some("n")));
    let login: Login = read("\u{feff} only a password ").unwrap();
    assert_eq!(login.password.as_ref().unwrap().expose_secret(), " only a password ");
    let login: Login = read(r#"{"username":"app","password":"\"p\\\u00e4\/"}"#).unwrap();
    assert_eq!(login.password.as_ref().unwrap().expose_secret(), "\"p\\ä/");
}

#[test]
fn a_login_that_is_refused_names_the_field_and_never_its_text() {
    let long = "sentinel".repeat(8);
    for (text, names) in [
        (r#"{"password":"sentinel"}"#.to_owned(), "`username`"),
        (r#"{"username":7,"password":"sentinel"}"#.to_owned(), "`username`"),
        (r#"{"username":" sentinel","password":"p"}"#.to_owned(), "`username`"),
        (r#"{"username":"sentinel\u0000","password":"p"}"#.to_owned(), "`username`"),
        (format!(r#"{{"username":"{long}","password":"p"}}"#), "`username`"),
        (r#"{"username":"app"}"#.to_owned(), "`password`"),
        (r#"{"username":"app","password":" "}"#.to_owned(), "`password`"),
        (r#"{"username":"app","password":["sentinel"]}"#.to_owned(), "`password`"),
        (r#"{"username":"app","password":"p","host":"postgres://a:sentinel@db/n"}"#.to_owned(), "`host`"),
        (r#"{"username":"app","password":"p","host":"a:sentinel@db"}"#.to_owned(), "`host`"),
        (r#"{"username":"app","password":"p","host":"db sentinel"}"#.to_owned(), "`host`"),
        (r#"{"username":"app","password":"p","host":"db:0"}"#.to_owned(), "`host`"),
        (r#"{"username":"app","password":"p","host":"db:5432","port":6432}"#.to_owned(), "`port`"),
        (r#"{"username":"app","password":"p","port":5432.5}"#.to_owned(), "`port`"),
        (r#"{"username":"app","password":"p","port":"sentinel"}"#.to_owned(), "`port`"),
        (r#"{"username":"app","password":"p","port":-1}"#.to_owned(), "`port`"),
        (r#"{"username":"app","password":"p","dbname":"sentinel\n"}"#.to_owned(), "`dbname`"),
        (r#"{"username":"app","password":"p","dbname":{"sentinel":1}}"#.to_owned(), "`dbname`"),
        ("sentinel\n".to_owned(), "newline at its end"),
        ("sentinel\r".to_owned(), "newline at its end"),
        ("USER=app\nPASSWORD=sentinel".to_owned(), "in one line"),
        ("sentinel\0".to_owned(), "the character NUL"),
        ("\"sentinel\"".to_owned(), "the JSON of a login"),
        ("[\"sentinel\"]".to_owned(), "the JSON of a login"),
        ("eyJ1c2VybmFtZSI6InNlbnRpbmVsIn0=".to_owned(), "the JSON of a login"),
        (r#"{"username":"app","password":"p","password":"sentinel"}"#.to_owned(), "the JSON of a login"),
    ] {
        let error = login_forms::parts(&text).unwrap_err();
        assert!(error.contains(names) && !error.contains("sentinel"), "{text}: {error}");
    }
}

#[test]
fn other_kinds_refuse_json_in_disguise() {
    let twice = r#""{\"api_key\":\"abc\"}""#;
    for text in [twice, "\"abc\"", "[\"abc\"]", "eyJhcGlfa2V5IjoiYWJjIn0="] {
        assert!(read::<ApiKey>(text).is_err(), "{text}");
    }
    // 32 bytes and more, but those of JSON.
    let json_in_base64 = STANDARD.encode(format!("{{\"key\":\"{KEY}\"}}"));
    assert!(read::<SigningKeys>(&json_in_base64).is_err());
    assert_eq!(read::<ApiKey>("\u{feff}abc\r\n").unwrap().expose_secret(), "abc");
    assert!(read::<SigningKeys>(&format!("\u{feff}{KEY}\n")).is_ok());
}

#[test]
fn a_login_that_starts_like_json_is_never_a_password() {
    for text in [
        "{",
        " {\"username\":\"app\"}",
        r#"{"username":"app","password":""}"#,
        r#"{"username":"","password":"p"}"#,
        r#"{"password":"p"}"#,
        r#"{"username":"app","password":7}"#,
        r#"{"username":"app","password":"p","port":0}"#,
        r#"{"username":"app","password":"p","port":70000}"#,
        r#"{"username":"app","password":"p","host":" "}"#,
    ] {
        assert!(read::<Login>(text).is_err(), "{text}");
    }
}

#[test]
fn a_signing_key_has_at_least_32_bytes() {
    assert!(read::<SigningKeys>(KEY).is_ok());
    assert!(read::<SigningKeys>(&format!("{KEY}\n")).is_ok());
    assert!(read::<SigningKeys>(&format!("{{\"key\":\"{KEY}\"}}")).is_ok());
    for text in ["c2hvcnQ=", "not base64!", "{\"key\":7}", "{}", "{\"key\":\"c2hvcnQ=\"}"] {
        assert!(read::<SigningKeys>(text).is_err(), "{text}");
    }
}

#[test]
fn a_signature_is_verified_by_the_key_that_made_it() {
    let other = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=";
    let before: SigningKeys = read(KEY).unwrap();
    let (id, signature) = before.sign(b"m");
    let stages = BTreeMap::from([(Stage::Previous, value(KEY, "v1"))]);
    let after = SigningKeys::read(&SecretValues::new(value(other, "v2"), stages, None)).unwrap();
    assert_eq!(after.verify(id.as_str(), b"m", &signature, true), Ok(id));
    assert!(after.verify(id.as_str(), b"m", &signature, false).is_err());
    assert!(after.verify(id.as_str(), b"n", &signature, true).is_err());
    assert!(after.verify("v2", b"m", &signature, true).is_err());
    assert!(after.verify("v3", b"m", &signature, true).is_err());
    assert_eq!(after.sign(b"m").0.as_str(), "v2");
}

#[test]
fn a_malformed_key_that_would_only_verify_is_not_used() {
    for (text, is_used) in [(KEY, true), ("c2hvcnQ=", false)] {
        let others = [Stage::Pending, Stage::Previous].map(|stage| (stage, value(text, "v1")));
        let keys = SigningKeys::read(&SecretValues::new(value(KEY, "v2"), others.into(), None)).unwrap();
        assert_eq!(Stage::ALL.map(|stage| keys.uses(stage)), [true, is_used, is_used], "{text}");
    }
}

#[test]
fn an_api_key_must_fit_into_a_header() {
    assert_eq!(read::<ApiKey>("abc\n").unwrap().expose_secret(), "abc");
    assert_eq!(read::<ApiKey>(r#"{"api_key":"abc"}"#).unwrap().expose_secret(), "abc");
    for text in ["a b", "a\nb", "schlüssel", r#"{"api_key":""}"#, r#"{"key":"abc"}"#, "{"] {
        assert!(read::<ApiKey>(text).is_err(), "{text}");
    }
}

#[test]
fn an_error_does_not_quote_a_malformed_value() {
    let sentinel = "hunter2-sentinel";
    for error in [
        read::<Login>(&format!("{{\"username\":\"a\",\"password\":{{\"{sentinel}\":1}}}}")).err(),
        read::<SigningKeys>(sentinel).err(),
        read::<ApiKey>(&format!("{sentinel} {sentinel}")).err(),
    ] {
        let error = error.unwrap();
        assert!(!format!("{error} {error:?}").contains(sentinel));
    }
}
