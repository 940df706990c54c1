//! Answers of engines, and what they mean.

use super::*;

#[test]
fn a_role_whose_certificates_have_leases_is_refused_with_a_word_about_the_role() {
    let id = SecretId::parse("pki/issue/web").unwrap();
    let path = VaultPath::parse(&id).unwrap();
    let issued = |lease_id: &str| {
        let data = r#"{"serial_number":"01:02","expiration":4102444800}"#;
        let body = Zeroizing::new(format!(r#"{{"lease_id":"{lease_id}","data":{data}}}"#).into_bytes());
        certificates::issued(path, &VaultAnswer { status: StatusCode::OK, headers: HeaderMap::new(), body })
    };
    assert!(issued("").is_ok());
    let error = issued("pki/issue/web/sentinel").err().expect("a certificate with a lease");
    assert_eq!(error.exit(), Exit::Malformed);
    assert!(error.to_string().contains("generate_lease = true") && !error.to_string().contains("sentinel"), "{error}");
    let remedy = remedies::remedy(&VaultConfig::default(), &id, &error, Operation::ReadValue);
    assert!(remedy.contains("`bao patch pki/roles/web generate_lease=false`"), "{remedy}");
}

#[test]
fn the_remedy_of_an_answer_is_about_what_was_asked_for() {
    let answer = |status, body: &str| {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        VaultAnswer { status, headers: HeaderMap::new(), body }
    };
    let remedy = |id: &SecretId, error: &SourceError, operation| {
        remedies::remedy(&VaultConfig::default(), id, error, operation).into_owned()
    };
    let (login, web) = (SecretId::parse("database/creds/pay").unwrap(), SecretId::parse("pki/issue/web").unwrap());
    let (path_of_login, path_of_web) = (VaultPath::parse(&login).unwrap(), VaultPath::parse(&web).unwrap());
    let denied = SourceError::Denied("as scripted".into());
    let right = "give its role a policy with: path \"sys/leases/renew\" { capabilities = [\"update\"] }";
    assert_eq!(remedy(&login, &denied, Operation::RenewLease), right);
    assert!(remedy(&login, &denied, Operation::ReadValue).contains("path \"database/creds/pay\""));

    let not_allowed = answer(StatusCode::BAD_REQUEST, r#"{"errors":["common name web not allowed by this role"]}"#);
    let error = certificates::issued(path_of_web, &not_allowed).err().expect("no certificate");
    let compare = "compare [secrets.vault.issue.NAME] with the role: `bao read pki/roles/web`";
    assert_eq!(remedy(&web, &error, Operation::ReadValue), compare);

    let no_lease = answer(StatusCode::OK, r#"{"lease_id":"","lease_duration":0,"data":{}}"#);
    let error = logins::issued(path_of_login, &no_lease).err().expect("no login");
    assert!(remedy(&login, &error, Operation::ReadValue).starts_with("name a role whose logins have leases"));
}

#[test]
fn a_certificate_is_as_before_only_if_its_engine_says_so_or_stores_none() {
    let id = SecretId::parse("pki/issue/web").unwrap();
    let path = VaultPath::parse(&id).unwrap();
    let asked = |status: u16, body: &str| {
        let (status, body) = (StatusCode::from_u16(status).unwrap(), Zeroizing::new(body.as_bytes().to_vec()));
        certificates::revocation(path, &VaultAnswer { status, headers: HeaderMap::new(), body })
    };
    assert_eq!(asked(200, r#"{"data":{"certificate":"c","revocation_time":0}}"#), Ok(Renewal::AsBefore));
    assert_eq!(asked(200, r#"{"data":{"certificate":"c","revocation_time":1700000000}}"#), Ok(Renewal::Ended));
    assert_eq!(asked(404, r#"{"errors":[]}"#), Ok(Renewal::AsBefore), "a role with no_store");
    for (status, body, exit) in [
        (403, r#"{"errors":["permission denied"]}"#, Exit::Denied),
        (404, r#"{"errors":["no handler for route \"pki/cert/01\""]}"#, Exit::Missing),
        (400, r#"{"errors":["as scripted"]}"#, Exit::Unavailable),
        (200, r#"{"data":{"value":"of another engine"}}"#, Exit::Malformed),
    ] {
        let error = asked(status, body).expect_err("nobody knows if it was revoked");
        assert_eq!(error.exit(), exit, "{status} {body}: {error}");
        let remedy = remedies::remedy(&VaultConfig::default(), &id, &error, Operation::RenewLease);
        assert!(!remedy.contains("capabilities"), "no policy is needed: {remedy}");
    }
}

#[test]
fn the_time_in_the_id_of_a_version_is_a_time_and_nothing_else() {
    let texts_at = |time: &str| {
        let metadata = format!(r#"{{"version":1,"created_time":"{time}"}}"#);
        let body = format!(r#"{{"data":{{"data":{{"value":"v"}},"metadata":{metadata}}}}}"#);
        fuzzing::texts(StatusCode::OK, HeaderMap::new(), &body).of_reads
    };
    assert_eq!(texts_at("2026-01-01T00:00:00Z")[0], "1@2026-01-01T00:00:00Z");
    let texts = texts_at("sentinel-in-a-time");
    assert!(!texts.is_empty() && texts.iter().all(|text| !text.contains("sentinel")), "{texts:?}");
}
