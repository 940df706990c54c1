//! The secret parts of each kind, which the log withholds.

use super::*;
use crate::secrets::secret_parts::SecretParts;
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

/// Returns `true` if the log would withhold a line with this text, while a credential of this kind is held.
fn is_withheld<K: Kind>(values: &SecretValues, line: &str) -> bool {
    let mut parts = SecretParts::default();
    K::read(values).unwrap_or_else(|error| panic!("{error}")).secret_parts(values, &mut parts);
    parts.forms().any(|form| line.as_bytes().windows(form.len()).any(|window| window == form))
}

fn values(text: &str) -> SecretValues {
    SecretValues::new(value(text, "v1"), BTreeMap::new(), None)
}

#[test]
fn the_password_of_a_login_is_secret_and_nothing_else_of_it() {
    let login = values(
        r#"{"username":"the-user","password":"the-pass\\word","host":"the-host.internal","dbname":"the-database"}"#,
    );
    for (line, withheld) in [
        ("the-user at the-host.internal/the-database", false),
        ("the-pass\\word", true),
        (r"the-pass\\word", true),
        ("the-pass", false),
    ] {
        assert_eq!(is_withheld::<Login>(&login, line), withheld, "{line}");
    }
    assert!(is_withheld::<Login>(&values("a bare password"), "with a bare password in it"));
}

#[test]
fn an_api_key_is_secret() {
    for text in ["key-of-the-other-side", r#"{"api_key":"key-of-the-other-side"}"#] {
        assert!(is_withheld::<ApiKey>(&values(text), "Bearer key-of-the-other-side"), "{text}");
    }
}

#[test]
fn every_signing_key_is_secret_in_each_of_its_lines() {
    let [current, previous] = [b'c', b'p'].map(|byte| (0..96).map(|place| byte ^ place).collect::<Vec<u8>>());
    let lines = |key: &[u8]| key.chunks(48).map(|line| STANDARD.encode(line)).collect::<Vec<_>>();
    let others = BTreeMap::from([(Stage::Previous, value(&STANDARD.encode(&previous), "v0"))]);
    let keys = SecretValues::new(value(&lines(&current).join("\n"), "v1"), others, None);
    for line in [lines(&current), lines(&previous)].concat() {
        assert!(is_withheld::<SigningKeys>(&keys, &line), "{line}");
    }
    assert!(is_withheld::<SigningKeys>(&keys, &STANDARD.encode([b"x", &current[..]].concat())));
    assert!(!is_withheld::<SigningKeys>(&keys, &STANDARD.encode("another text, which is no key")));
}

#[test]
fn a_private_key_is_secret_in_each_of_its_lines_and_a_certificate_is_not() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let private_key = key.serialize_pem();
    for text in [
        json!({ "certificate": certificate, "private_key": private_key }).to_string(),
        format!("{certificate}{private_key}"),
    ] {
        let values = values(&text);
        for line in private_key.lines().filter(|line| !line.starts_with('-')) {
            assert!(is_withheld::<TlsIdentity>(&values, line), "{line}");
        }
        let first_lines: Vec<_> = certificate.lines().take(3).collect();
        assert!(!is_withheld::<TlsIdentity>(&values, &first_lines.join("\n")));
    }
}

#[test]
fn the_whole_value_of_a_kind_that_says_nothing_is_secret() {
    struct Pin;

    impl Kind for Pin {
        const NAME: &'static str = "pin";

        fn read(_: &SecretValues) -> Result<Self, Malformed> {
            Ok(Self)
        }
    }

    assert!(is_withheld::<Pin>(&values("1234-5678\n"), "the pin is 1234-5678."));
    assert!(!is_withheld::<Pin>(&values("1234\n"), "the pin is 1234"), "it is too short");
}
