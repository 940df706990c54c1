//! The local authority, with its certificates verified by rustls, which did not issue them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use devstack::{Authority, Identity, Stack, Validity};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::Outcome;

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("it is PEM")
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(chain(authority.certificate()).remove(0)).expect("it is a root");
    roots.into()
}

/// Verifies a server's chain as a client does that trusts this authority and knows the server by this name.
fn verify(authority: &Authority, chain: &[CertificateDer<'_>], name: &str) -> Result<(), rustls::Error> {
    verify_in(Duration::ZERO, authority, chain, name)
}

/// Does the same at the time after this pause.
fn verify_in(
    pause: Duration,
    authority: &Authority,
    chain: &[CertificateDer<'_>],
    name: &str,
) -> Result<(), rustls::Error> {
    let time = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + pause);
    let provider = Arc::new(default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority), provider).build();
    let name = ServerName::try_from(name).expect("it is one");
    verifier.expect("there is a root").verify_server_cert(&chain[0], &chain[1..], &name, &[], time)?;
    Ok(())
}

fn rejection(verified: Result<(), rustls::Error>) -> CertificateError {
    match verified {
        Err(rustls::Error::InvalidCertificate(error)) => error,
        other => panic!("expected a rejected certificate: {other:?}"),
    }
}

#[test]
fn a_client_that_trusts_the_root_accepts_a_server_under_its_names() {
    let authority = Authority::new("test");
    let issued = authority.issue(&["service.example", "192.0.2.7"], Validity::days(1));
    let certificates = chain(&issued.certificate);
    assert_eq!(certificates.len(), 2, "the leaf and the intermediate");
    assert_eq!(issued.certificates().concat(), issued.certificate);
    assert_eq!(issued.certificates().len(), 2);
    for name in ["service.example", "192.0.2.7"] {
        assert_eq!(verify(&authority, &certificates, name), Ok(()), "{name}");
    }
    let local = chain(&authority.local(Validity::days(90)).certificate);
    for name in ["localhost", "127.0.0.1", "::1"] {
        assert_eq!(verify(&authority, &local, name), Ok(()), "{name}");
    }
    let foreign = rejection(verify(&authority, &certificates, "localhost"));
    assert!(matches!(foreign, CertificateError::NotValidForNameContext { .. }), "{foreign:?}");
    assert_eq!(rejection(verify(&authority, &certificates[..1], "service.example")), CertificateError::UnknownIssuer);
    let namesake = Authority::new("test");
    verify(&namesake, &certificates, "service.example").expect_err("another authority of the same name");
}

#[test]
fn a_certificate_is_valid_only_in_its_period() {
    let authority = Authority::new("test");
    let at = |validity| verify(&authority, &chain(&authority.local(validity).certificate), "localhost");
    assert_eq!(at(Validity::days(6)), Ok(()));
    let expired = rejection(at(Validity::over()));
    assert!(matches!(expired, CertificateError::ExpiredContext { .. }), "{expired:?}");
    let early = rejection(at(Validity::not_yet()));
    assert!(matches!(early, CertificateError::NotValidYetContext { .. }), "{early:?}");

    let minute = Duration::from_secs(60);
    let short = chain(&authority.local(Validity::lasting(minute)).certificate);
    assert_eq!(verify(&authority, &short, "localhost"), Ok(()));
    let expired = rejection(verify_in(minute + Duration::from_secs(1), &authority, &short, "localhost"));
    assert!(matches!(expired, CertificateError::ExpiredContext { .. }), "{expired:?}");
}

#[test]
fn a_client_certificate_is_not_valid_for_a_server_and_the_reverse() {
    let authority = Authority::new("test");
    let client = chain(&authority.client("reporting", Validity::days(1)).certificate);
    let server = chain(&authority.local(Validity::days(1)).certificate);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&authority), Arc::new(default_provider())).build();
    let verifier = verifier.expect("there is a root");
    let accepts = |chain: &[CertificateDer<'_>]| verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now());
    accepts(&client).expect("it is a client");
    accepts(&server).expect_err("it is a server");
    verify(&authority, &client, "localhost").expect_err("it is a client");
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_reaches_its_servers_and_no_others() -> Outcome {
    let authority = Authority::new("test");
    let good = serve_once(&authority.local(Validity::days(1)))?;
    let client = authority.trusted().build()?;
    let answer = client.get(format!("https://127.0.0.1:{good}/")).send().await?;
    assert_eq!(answer.text().await?, "hello");
    let foreign = serve_once(&Authority::new("other").local(Validity::days(1)))?;
    let error = client.get(format!("https://127.0.0.1:{foreign}/")).send().await.expect_err("it is not trusted");
    assert!(error.is_connect(), "{error:?}");
    Ok(())
}

/// Starts a server that answers one request. Returns its port. rustls checks that the key fits the certificate.
fn serve_once(identity: &Identity) -> Result<u16, Box<dyn std::error::Error>> {
    let key = PrivateKeyDer::from_pem_slice(identity.private_key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain(&identity.certificate), key)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        let connection = ServerConnection::new(Arc::new(config)).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        let _ = stream.read(&mut [0; 1024])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")?;
        stream.conn.send_close_notify();
        stream.flush()
    });
    Ok(port)
}

#[tokio::test]
async fn a_tenant_gets_an_identity_and_a_client_ca_and_their_key_is_searched_for() -> Outcome {
    let tenant = Stack::shared().await.tenant("identity").await?;
    tenant.put_random("server_tls", "tls_identity").await?.expect("the kind is known");
    let secret: serde_json::Value = serde_json::from_str(&tenant.value("server_tls", "AWSCURRENT").await?)?;
    let certificate = secret["certificate"].as_str().expect("text");
    for name in ["localhost", "127.0.0.1", "::1"] {
        assert_eq!(verify(tenant.authority(), &chain(certificate), name), Ok(()), "{name}");
    }
    let key = secret["private_key"].as_str().expect("text");
    let line = key.lines().nth(1).expect("it has several");
    assert_eq!(tenant.redact(&format!("before {line} after")), "before [server_tls] after", "a line is enough");
    tenant.assert_secret_free("a log", certificate);

    tenant.put_random("client_ca", "client_ca").await?.expect("the kind is known");
    let bundle = tenant.value("client_ca", "AWSCURRENT").await?;
    assert_eq!(bundle, tenant.authority().certificate());
    tenant.assert_secret_free("a log", &bundle);
    Ok(())
}

#[test]
fn the_debug_output_of_an_identity_does_not_show_its_key() {
    let identity = Authority::new("test").local(Validity::days(1));
    assert_eq!(format!("{identity:?}"), "Identity { .. }");
}
