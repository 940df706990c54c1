use super::*;
use crate::trust;
use axum::body::Body;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use sqlx::error::{BoxDynError, DatabaseError, ErrorKind};
use std::{borrow::Cow, sync::Arc};
use time::{Duration as Days, OffsetDateTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// A certificate for these names, that begins and ends this many days from now, with its key.
fn certificate(names: &[&str], from: i64, until: i64) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    let now = OffsetDateTime::now_utc();
    (parameters.not_before, parameters.not_after) = (now + Days::days(from), now + Days::days(until));
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// Serves TLS with this certificate. Returns the port.
async fn serve_tls(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> u16 {
    let config = ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (listener, acceptor) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TlsAcceptor::from(Arc::new(config)));
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let _ = acceptor.accept(connection).await;
        }
    });
    port
}

/// Answers the start of each connection with this text. Returns the port.
async fn serve_text(text: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.read(&mut [0; 1024]).await;
            let _ = connection.write_all(text).await;
        }
    });
    port
}

/// Gets a URL with a client that trusts these authorities. Returns the cause of its failure.
async fn cause_of_get(url: &str, trusted: &[CertificateDer<'static>]) -> RootCause {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let tls = trust::builder().with_root_certificates(roots).with_no_client_auth();
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    let client = Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    RootCause::of(&client.get(url.parse().unwrap()).await.expect_err("it fails"))
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_is_named_with_what_helps() {
    let cases = [
        (certificate(&["localhost"], -1, 1), false, "authority that is not trusted", "database.tls_root_cert"),
        (certificate(&["localhost"], -9, -2), true, "its certificate ended 2days ago", "NTP"),
        (certificate(&["localhost"], 2, 9), true, "its certificate begins in ", "NTP"),
        (certificate(&["other.example"], -1, 1), true, "\"localhost\"", "a name that is in its certificate"),
    ];
    for ((certificate, key), is_trusted, text, remedy) in cases {
        let port = serve_tls(certificate.clone(), key).await;
        let trusted = if is_trusted { vec![certificate] } else { Vec::new() };
        let cause = cause_of_get(&format!("https://localhost:{port}/"), &trusted).await;
        assert!(cause.to_string().contains(text), "{cause}");
        assert!(cause.remedy(OtherSide::Database).unwrap().contains(remedy), "{cause:?}");
    }
}

#[tokio::test]
async fn a_certificate_for_an_ip_address_needs_it_as_one() {
    let (certificate, key) = certificate(&["localhost"], -1, 1);
    let port = serve_tls(certificate.clone(), key).await;
    let cause = cause_of_get(&format!("https://127.0.0.1:{port}/"), &[certificate]).await;
    assert!(cause.to_string().contains("127.0.0.1") && cause.to_string().contains("localhost"), "{cause}");
    assert!(cause.remedy(OtherSide::Manager).unwrap().contains("as an IP address"), "{cause:?}");
}

#[tokio::test]
async fn the_place_of_an_authority_depends_on_the_other_side() {
    let cause = RootCause::of(&rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
    for (side, place) in [
        (OtherSide::Manager, "AWS_CA_BUNDLE"),
        (OtherSide::Api, "SSL_CERT_FILE"),
        (OtherSide::Database, "database.tls_root_cert"),
        (OtherSide::AdminListener, "--ca"),
    ] {
        assert!(cause.with_remedy(side).contains(place), "{}", cause.with_remedy(side));
    }
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_says_why() {
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let plain = serve_text(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let alert = serve_text(b"\x15\x03\x03\x00\x02\x02\x28").await;
    for (url, text, remedy) in [
        (format!("http://{refused}/"), "Connection refused", "check the host and the port"),
        ("http://nowhere.invalid/".into(), "the name does not resolve: ", "mend the DNS"),
        (format!("https://127.0.0.1:{plain}/"), "does not answer as TLS does", "http://"),
        (format!("https://127.0.0.1:{alert}/"), "HandshakeFailure", "TLS 1.2 or 1.3"),
        (format!("http://127.0.0.1:{alert}/"), "invalid HTTP version", "https://"),
    ] {
        let cause = cause_of_get(&url, &[]).await;
        assert!(cause.to_string().contains(text), "{url}: {cause}");
        assert!(cause.remedy(OtherSide::Api).is_some_and(|found| found.contains(remedy)), "{cause:?}");
    }
}

#[test]
fn the_limit_of_open_files_is_named() {
    let cause = RootCause::of(&io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error()));
    assert_eq!(cause.to_string(), "Too many open files");
    assert!(cause.remedy(OtherSide::Manager).unwrap().contains("LimitNOFILE"));
}

#[test]
fn an_error_is_read_to_its_core_and_names_its_host() {
    let tls = rustls::Error::InvalidCertificate(CertificateError::NotValidYet);
    let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
    let cause = RootCause::of(&AtHost { host: "manager.example".into(), source: Box::new(io::Error::other(wrapped)) });
    assert!(cause.to_string().contains("NotValidYet"), "{cause}");
    assert_eq!(cause.host(), Some("manager.example"));
}

#[expect(clippy::disallowed_methods, reason = "nothing is secret here")]
#[test]
fn a_kind_alone_and_a_text_of_a_parser_are_not_shown() {
    let no_text = RootCause::of(&io::Error::from(io::ErrorKind::Other));
    assert_eq!(no_text.to_string(), "the cause is not known");
    let parser = serde_json::from_str::<u8>("\"sentinel\"").unwrap_err();
    assert!(parser.to_string().contains("sentinel"), "this tests nothing");
    assert_eq!(RootCause::of(&parser), no_text);
    let within = io::Error::new(io::ErrorKind::InvalidData, parser);
    assert_eq!(RootCause::of(&within).to_string(), "invalid data");
    let sqlx = sqlx::Error::Configuration("postgres://user:sentinel@host".into());
    assert_eq!(RootCause::of(&sqlx), no_text);
}

#[tokio::test]
async fn a_text_of_the_other_side_in_the_frame_that_ends_a_connection_is_not_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        // RFC 9113, sections 6.5 and 6.8: SETTINGS, and GOAWAY for stream 0 and on, ENHANCE_YOUR_CALM.
        let frames = [b"\0\0\0\x04\0\0\0\0\0\0\0\x10\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b".as_slice(), b"sentinel"].concat();
        connection.write_all(&frames).await.expect("somebody reads");
        while connection.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    });
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Body>();
    let error = client.get(url.parse().unwrap()).await.unwrap_err();
    let mut deepest: &dyn Error = &error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    assert!(deepest.to_string().contains("sentinel"), "this tests nothing: {deepest}");
    for shown in [reasons(&error), RootCause::of(&error).to_string()] {
        assert!(shown.contains("http2") && !shown.contains("sentinel"), "{shown}");
    }
}

/// The answer of a database to a statement.
#[derive(Debug, thiserror::Error)]
#[error("{}", DatabaseError::message(self))]
struct Answer;

impl DatabaseError for Answer {
    fn message(&self) -> &str {
        "invalid input value for enum mood: \"sentinel\""
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some("22P02".into())
    }

    fn constraint(&self) -> Option<&str> {
        Some("moods_key")
    }

    fn table(&self) -> Option<&str> {
        Some("moods")
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> BoxDynError {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

#[derive(Debug, thiserror::Error)]
enum OfAService {
    #[error(transparent)]
    Transparent(#[from] sqlx::Error),
    #[error("the mood is not kept: {0}")]
    WithText(#[source] sqlx::Error),
    #[error("the mood is not kept")]
    WithSource(#[source] sqlx::Error),
}

#[test]
fn the_message_of_a_statement_that_failed_is_not_shown_as_it_may_quote_values() {
    let answer = || sqlx::Error::Database(Box::new(Answer));
    assert!(answer().to_string().contains("sentinel"), "this tests nothing");
    let fields = "the database answered SQLSTATE 22P02, table moods, constraint moods_key";
    assert_eq!(reasons(&answer()), fields);
    assert_eq!(reasons(&OfAService::Transparent(answer())), fields);
    assert_eq!(reasons(&OfAService::WithText(answer())), fields);
    assert_eq!(reasons(&OfAService::WithSource(answer())), format!("the mood is not kept: {fields}"));
    let io = sqlx::Error::Io(io::Error::other("broken"));
    assert_eq!(reasons(&io), "error communicating with database: broken");
}
