//! The forms in which tools and people write certificates and their keys.

use super::*;
use crate::secrets::expiry::Expiry;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, NameConstraints, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, SanType, SerialNumber,
};
use serde_json::json;
use time::{Duration, OffsetDateTime};

/// A chain of three certificates and the key of the first one, as PEM.
struct Made {
    own: String,
    intermediate: String,
    root: String,
    /// In PKCS #8.
    key: KeyPair,
}

impl Made {
    fn with(key: KeyPair) -> Self {
        Self::changed(key, |_, _| ())
    }

    /// Changes the server's own certificate, and the one of the authority that signs it.
    fn changed(key: KeyPair, change: impl FnOnce(&mut CertificateParams, &mut CertificateParams)) -> Self {
        let (root_key, intermediate_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = authority("root").self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(authority("root"), root_key);
        let mut own = CertificateParams::new(["a.example".to_owned()]).unwrap();
        let mut between = authority("intermediate");
        change(&mut own, &mut between);
        let intermediate = between.signed_by(&intermediate_key, &root_issuer).unwrap();
        let own = own.signed_by(&key, &Issuer::new(between, intermediate_key)).unwrap();
        Self { own: own.pem(), intermediate: intermediate.pem(), root: root.pem(), key }
    }

    fn new() -> Self {
        Self::with(KeyPair::generate().unwrap())
    }

    fn chain(&self) -> String {
        format!("{}{}", self.own, self.intermediate)
    }

    fn pkcs8(&self) -> String {
        self.key.serialize_pem()
    }

    /// Returns the key as `openssl ecparam -genkey` writes it: the curve in a block of its own, then the key in SEC 1.
    fn sec1(&self) -> String {
        pem("EC PARAMETERS", &CURVE) + &pem("EC PRIVATE KEY", &sec1(&self.key))
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters
}

/// Returns the JSON of a certificate and a key.
fn pair(certificate: &str, key: &str) -> String {
    json!({ "certificate": certificate, "private_key": key }).to_string()
}

/// Returns the number of certificates in the chain that is shown to clients.
fn length(text: &str) -> Result<usize, String> {
    match read::<TlsIdentity>(text) {
        Ok(identity) => Ok(identity.key().cert.len()),
        Err(malformed) => Err(malformed.to_string()),
    }
}

#[test]
fn a_certificate_and_its_key_are_read_in_every_form() {
    let made = &Made::new();
    let (chain, key) = (&made.chain(), &made.pkcs8());
    let with_bags = format!(
        "Bag Attributes\n    localKeyID: B5 07\nsubject=CN = a.example\nissuer=CN = intermediate\n{}Bag Attributes: <No Attributes>\n{}",
        made.own, made.intermediate
    );
    let with_text = format!("Certificate:\n    Data:\n        Version: 3 (0x2)\n\tSubject: CN = a.example\n{chain}");
    for (from, text, length_of_chain) in [
        ("openssl req -x509", pair(&made.own, key), 1),
        ("Let's Encrypt: fullchain.pem and privkey.pem", pair(chain, key), 2),
        ("with the root at its end", pair(&(chain.clone() + &made.root), key), 3),
        ("openssl ecparam -genkey: EC PARAMETERS, then SEC 1", pair(chain, &made.sec1()), 2),
        (
            "cat of files without a newline at their ends",
            pair(&(made.own.trim().to_owned() + made.intermediate.trim()), key),
            2,
        ),
        ("Windows: CRLF", pair(&chain.replace('\n', "\r\n"), &key.replace('\n', "\r\n")), 2),
        ("an editor's tabs", pair(&chain.replace('\n', "\n\t"), key), 2),
        ("a byte order mark", pair(&format!("\u{feff}{chain}"), &format!("\u{feff}{key}")), 2),
        ("console: newlines became blanks", pair(&chain.replace('\n', " "), &key.replace('\n', " ")), 2),
        ("a variable: newlines became \\n", pair(&chain.replace('\n', "\\n"), &key.replace('\n', "\\n")), 2),
        ("openssl x509 -text", pair(&with_text, key), 2),
        (
            "openssl pkcs12: bag attributes",
            pair(&with_bags, &format!("Bag Attributes\nKey Attributes: <No Attributes>\n{key}")),
            2,
        ),
        ("old tools: X509 CERTIFICATE", pair(&chain.replace("CERTIFICATE", "X509 CERTIFICATE"), key), 2),
        ("cert-manager", json!({ "ca.crt": made.root, "tls.crt": chain, "tls.key": key }).to_string(), 2),
        (
            "cert-manager: additionalOutputFormats",
            json!({ "tls.crt": chain, "tls.key": key, "tls-combined.pem": format!("{key}{chain}"), "key.der": "MIGC" })
                .to_string(),
            2,
        ),
        ("Terraform: tls_private_key, with its newlines", pair(&format!("\n{chain}\n"), &format!("\n{key}\n")), 2),
        (
            "Terraform: aws_acm_certificate",
            json!({ "certificate": made.own, "certificate_chain": made.intermediate, "private_key": key }).to_string(),
            2,
        ),
        (
            "Terraform: a chain that is empty",
            json!({ "certificate": made.own, "certificate_chain": "", "private_key": key }).to_string(),
            1,
        ),
        (
            "Vault: pki/issue",
            json!({
                "ca_chain": [made.intermediate.trim(), made.root.trim()],
                "certificate": made.own.trim(),
                "expiration": 1_800_000_000,
                "issuing_ca": made.intermediate.trim(),
                "private_key": made.sec1().trim(),
                "private_key_type": "ec",
                "serial_number": "39:dd:2e",
            })
            .to_string(),
            3,
        ),
        (
            "Vault: the chain is in both",
            json!({ "ca_chain": [made.intermediate], "certificate": chain, "private_key": key }).to_string(),
            2,
        ),
        ("Vault: no chain", json!({ "ca_chain": null, "certificate": made.own, "private_key": key }).to_string(), 1),
        ("HAProxy, cert-manager: tls-combined.pem", format!("{key}{chain}"), 2),
        ("cat fullchain.pem privkey.pem", format!("{chain}{key}"), 2),
        ("cat, with EC PARAMETERS and a byte order mark", format!("\u{feff}{chain}{}", made.sec1()), 2),
    ] {
        assert_eq!(length(&text), Ok(length_of_chain), "{from}");
    }
}

#[test]
fn keys_of_every_algorithm_and_form_are_read() {
    let rsa = Made::with(KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap());
    // What follows the header of PKCS #8 is the key in PKCS #1.
    let pkcs1 = pem("RSA PRIVATE KEY", &rsa.key.serialize_der()[26..]);
    assert_eq!(length(&pair(&rsa.chain(), &rsa.pkcs8())), Ok(2), "openssl genrsa");
    assert_eq!(length(&pair(&rsa.chain(), &pkcs1)), Ok(2), "openssl genrsa -traditional; Terraform");
    let ed25519 = Made::with(KeyPair::generate_for(&PKCS_ED25519).unwrap());
    assert_eq!(length(&pair(&ed25519.chain(), &ed25519.pkcs8())), Ok(2), "openssl genpkey -algorithm ed25519");
}

#[test]
fn a_certificate_or_a_key_that_is_refused_says_why() {
    let (made, other) = (&Made::new(), &Made::new());
    let (chain, key) = (&made.chain(), &made.pkcs8());
    let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAEC\n-----END RSA PRIVATE KEY-----\n";
    let half = &chain[..chain.len() - 40];
    for (from, text, words) in [
        ("openssl rsa -aes128", pair(chain, encrypted), TlsIdentity::PEM_KEY),
        ("openssl genpkey -aes128", pair(chain, &pem("ENCRYPTED PRIVATE KEY", b"key")), TlsIdentity::PEM_KEY),
        (
            "ACM: export-certificate",
            json!({ "Certificate": made.own, "CertificateChain": made.root, "PrivateKey": pem("ENCRYPTED PRIVATE KEY", b"key") })
                .to_string(),
            TlsIdentity::EXPECTED,
        ),
        ("openssl x509 -trustout", pair(&chain.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), key), TlsIdentity::PEM_CHAIN),
        ("openssl req: no certificate yet", pair(&pem("CERTIFICATE REQUEST", b"request"), key), TlsIdentity::PEM_CHAIN),
        ("openssl crl2pkcs7", pair(&pem("PKCS7", b"certificates"), key), TlsIdentity::PEM_CHAIN),
        ("openssl pkcs12: binary, in base64", pair("MIIKmgIBAzCCClA=", key), TlsIdentity::PEM_CHAIN),
        ("kubectl get secret -o json", pair(&STANDARD.encode(chain), &STANDARD.encode(key)), TlsIdentity::PEM_CHAIN),
        ("Vault: pem_bundle", pair(&format!("{key}{chain}"), key), TlsIdentity::PEM_CHAIN),
        ("a paste that was cut off", pair(half, key), TlsIdentity::PEM_CHAIN),
        ("a word processor's dashes", pair(&chain.replace("-----", "—----"), key), TlsIdentity::PEM_CHAIN),
        ("the key is the certificate", pair(chain, chain), TlsIdentity::PEM_KEY),
        ("the public key", pair(chain, &pem("PUBLIC KEY", b"key")), TlsIdentity::PEM_KEY),
        ("OpenSSH's own form", pair(chain, &pem("OPENSSH PRIVATE KEY", b"key")), TlsIdentity::PEM_KEY),
        ("two keys", pair(chain, &(key.clone() + key)), TlsIdentity::PEM_KEY),
        ("the curve alone", pair(chain, &pem("EC PARAMETERS", b"curve")), TlsIdentity::PEM_KEY),
        ("a key of another sort", pair(chain, &pem("PRIVATE KEY", b"key")), TlsIdentity::ALGORITHM),
        ("the key of another certificate", pair(chain, &other.pkcs8()), TlsIdentity::MATCHING_KEY),
        ("the wrong order", pair(&format!("{}{}{}", made.own, made.root, made.intermediate), key), TlsIdentity::CHAIN),
        ("a gap in the chain", pair(&format!("{}{}", made.own, made.root), key), TlsIdentity::CHAIN),
        ("one PEM text without a key", chain.clone(), TlsIdentity::PEM_KEY),
        ("one PEM text without a certificate", key.clone(), TlsIdentity::EXPECTED),
        ("plain text", "a certificate".to_owned(), TlsIdentity::EXPECTED),
        ("JSON without the key", json!({ "certificate": chain }).to_string(), TlsIdentity::EXPECTED),
    ] {
        assert_eq!(length(&text), Err(format!("expected {words}")), "{from}");
    }
}

#[test]
fn a_chain_that_clients_refuse_says_what_is_wrong_with_it() {
    type Change = fn(&mut CertificateParams, &mut CertificateParams);
    let cases: [(&str, Change, &str); 8] = [
        (
            "openssl x509 -req: an issuer that is no authority",
            |_, issuer| issuer.is_ca = IsCa::ExplicitNoCa,
            "CA:TRUE in",
        ),
        ("an issuer without basicConstraints", |_, issuer| issuer.is_ca = IsCa::NoCa, "CA:TRUE in"),
        (
            "the certificate of an authority as the server's own",
            |own, _| own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "that of an authority",
        ),
        (
            "an authority for other names",
            |_, issuer| {
                let other = GeneralSubtree::DnsName("b.example".into());
                issuer.name_constraints =
                    Some(NameConstraints { permitted_subtrees: vec![other], excluded_subtrees: Vec::new() });
            },
            "nameConstraints",
        ),
        (
            "an authority for clients",
            |_, issuer| issuer.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "authorities with serverAuth",
        ),
        (
            "a critical extension of a company",
            |own, _| {
                let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
                extension.set_criticality(true);
                own.custom_extensions.push(extension);
            },
            "critical extension",
        ),
        (
            "a serial number of 25 bytes",
            |own, _| own.serial_number = Some(SerialNumber::from_slice(&[1; 25])),
            "as RFC 5280 has them",
        ),
        (
            "a serial number of 25 bytes at the authority",
            |_, issuer| issuer.serial_number = Some(SerialNumber::from_slice(&[1; 25])),
            "as RFC 5280 has them",
        ),
    ];
    for (from, change, words) in cases {
        let made = Made::changed(KeyPair::generate().unwrap(), change);
        let error = length(&pair(&(made.chain() + &made.root), &made.pkcs8())).expect_err(from);
        assert!(error.contains(words), "{from}: {error}");
        // Without the root, the last certificate is one that clients do not trust.
        let is_of_the_anchor = from == "an authority for clients";
        assert!(is_of_the_anchor || length(&pair(&made.chain(), &made.pkcs8())).is_err(), "{from}, without the root");
    }
    let is_authority: Change = |own, _| own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let alone = Made::changed(KeyPair::generate().unwrap(), is_authority);
    assert_eq!(length(&pair(&alone.own, &alone.pkcs8())), Ok(1), "openssl req -x509 makes an authority");
}

#[test]
fn the_authorities_of_clients_are_read_in_every_form_or_refused_in_words() {
    let (made, other) = (&Made::new(), &Made::new());
    let both = &format!("{}{}", made.root, other.root);
    for (from, text, expected) in [
        ("openssl req -x509", made.root.clone(), Ok(())),
        ("a bundle of two", both.clone(), Ok(())),
        ("cat of files without a newline", both.replace("-----\n-----BEGIN", "----------BEGIN"), Ok(())),
        (
            "trust-manager, RDS: comments between",
            format!("# Subject: CN=root\n{}\n# the next\n{}", made.root, other.root),
            Ok(()),
        ),
        ("Windows", format!("\u{feff}{}", both.replace('\n', "\r\n")), Ok(())),
        ("console: a row", json!({ "certificate": both }).to_string(), Ok(())),
        (
            "cert-manager",
            json!({ "ca.crt": made.root, "tls.crt": made.own, "tls.key": made.pkcs8() }).to_string(),
            Ok(()),
        ),
        (
            "p11-kit, openssl x509 -trustout",
            made.root.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
            Err(ClientCa::EXPECTED),
        ),
        ("with the authority's key", format!("{}{}", made.root, made.pkcs8()), Err(ClientCa::EXPECTED)),
        ("one block of two is broken", both.replacen("\nMII", "\n*II", 1), Err(ClientCa::EXPECTED)),
        ("a row of another name", json!({ "ca": made.root }).to_string(), Err(ClientCa::EXPECTED)),
        ("kubectl get secret -o json", STANDARD.encode(both), Err(ClientCa::EXPECTED)),
    ] {
        assert_eq!(read::<ClientCa>(&text).map(|_| ()), expected.map_err(Malformed::expected), "{from}");
    }
    let server = read::<ClientCa>(&made.own).map(|_| ()).unwrap_err();
    assert!(server.to_string().contains("may not sign others"), "{server}");
}

#[test]
fn the_last_days_of_a_certificate_follow_its_lifetime() {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let hour = Duration::HOUR;
    for lifetime in [hour, 24 * hour, 90 * 24 * hour, 365 * 24 * hour] {
        let last = Duration::days(7).min(lifetime / 5);
        for (left, is_due) in [(last + hour / 60, false), (last - hour / 60, true)] {
            let end = now + left;
            let made = Made::changed(KeyPair::generate().unwrap(), |own, _| {
                (own.not_before, own.not_after) = (end - lifetime, end);
            });
            let expiry = read::<TlsIdentity>(&pair(&made.chain(), &made.pkcs8())).unwrap().expiry().unwrap();
            assert_eq!((expiry, expiry.is_due()), (Expiry::between(end - lifetime, end), is_due), "{lifetime} {left}");
        }
    }
}

#[test]
fn a_name_with_control_characters_is_no_name() {
    let mut parameters = CertificateParams::default();
    for name in ["a.example", "b\0.example", "c\u{1b}[2J"] {
        parameters.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        parameters.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
    }
    parameters.distinguished_name.push(DnType::CommonName, "d\n");
    let made = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let certificate = certificate::Certificate::parse(made.der().clone()).unwrap();
    assert_eq!((certificate.dns_names(), certificate.uris()), (vec!["a.example".into()], vec!["a.example".into()]));
    assert_eq!((certificate.common_name(), certificate.subject().as_str()), (None, "CN=d\\0a"));
}
