//! The secret parts of each kind, which the log withholds.

use super::*;
use crate::secrets::secret_parts::SecretParts;
use rcgen::{CertificateParams, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
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
fn a_private_key_is_secret_in_each_line_that_its_certificate_does_not_tell() {
    let ec = KeyPair::generate().unwrap();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let pkcs8 = |key: &KeyPair| ("PRIVATE KEY", key.serialize_der());
    let pkcs1 = ("RSA PRIVATE KEY", rsa.serialize_der()[26..].to_vec());
    // Of EC, the point is public: the third line of PKCS #8. Of RSA, the modulus: 257 bytes after 37, or after 11.
    for (key, (label, der), public) in [
        (&ec, pkcs8(&ec), 2..3),
        (&ec, ("EC PRIVATE KEY", sec1(&ec)), 1..3),
        (&rsa, pkcs8(&rsa), 0..6),
        (&rsa, pkcs1, 0..5),
        (&ed25519, pkcs8(&ed25519), 1..2),
    ] {
        let certificate = CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(key).unwrap().pem();
        let private_key = pem(label, &der);
        for text in [
            json!({ "certificate": certificate, "private_key": private_key }).to_string(),
            format!("{certificate}{private_key}"),
        ] {
            let values = values(&text);
            for (number, line) in der.chunks(48).enumerate() {
                let is_secret = is_withheld::<TlsIdentity>(&values, &STANDARD.encode(line));
                assert_eq!(is_secret, !public.contains(&number), "line {number} of {label}");
            }
            assert!(!is_withheld::<TlsIdentity>(&values, &certificate));
        }
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
