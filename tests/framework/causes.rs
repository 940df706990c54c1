//! Reports of connections that fail: each names the place, the cause, and what helps against it.

use crate::{
    SERVICE,
    support::{
        launch_options::LaunchOptions,
        stand_in::{HAS_TLS, StandIn},
        temporary_file::TemporaryFile,
    },
};
use devstack::{Authority, DEFAULT_TIMEOUT, Launch, Validity, free_port};
use std::net::Ipv4Addr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Runs a start that must end with this code, and a report that has all these texts.
async fn assert_reports(launch: Launch, code: i32, texts: &[&str]) {
    let exited = launch.with_short_deadline().start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(code), "{}", exited.stderr);
    for part in texts {
        assert!(exited.stderr.contains(part), "{part:?} is missing in:\n{}", exited.stderr);
    }
    assert!(!exited.stderr.contains("other error"), "{}", exited.stderr);
}

#[tokio::test]
async fn a_manager_behind_an_authority_of_a_company_is_reported_with_the_place_for_it() {
    let tenant = SERVICE.migrated("corporate_ca").await;
    let authority = Authority::new("corporate");
    let manager = StandIn::tls(&authority.local(Validity::days(1))).await;
    let endpoint = format!("https://localhost:{}", manager.port());
    let texts = [&format!("connecting to localhost:{} failed", manager.port()), "not trusted", "AWS_CA_BUNDLE"];
    assert_reports(SERVICE.launch(&tenant).env("AWS_ENDPOINT_URL", endpoint), 69, &texts).await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_reported_with_its_cause() {
    let tenant = SERVICE.migrated("endpoints").await;
    let expired = StandIn::tls(&tenant.authority().local(Validity::over())).await;
    let plain = StandIn::start(async |mut connection| {
        let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let root = TemporaryFile::new(tenant.authority().certificate());
    for (endpoint, texts) in [
        ("https://nowhere.invalid".to_owned(), ["nowhere.invalid", "does not resolve", "DNS"]),
        (format!("https://127.0.0.1:{}", free_port()), ["connecting to 127.0.0.1:", "Connection refused", "the port"]),
        (format!("https://localhost:{}", expired.port()), ["localhost:", "its certificate ended", "NTP"]),
        (format!("https://localhost:{}", plain.port()), ["localhost:", "does not answer as TLS does", "http://"]),
    ] {
        let launch = SERVICE.launch(&tenant).env("AWS_ENDPOINT_URL", endpoint).env("SSL_CERT_FILE", root.path());
        assert_reports(launch, 69, &texts).await;
    }
    let proxy = format!("http://user:sentinel@127.0.0.1:{}", free_port());
    let through_proxy = SERVICE.launch(&tenant).env("AWS_ENDPOINT_URL", "https://manager.invalid");
    let through_proxy = through_proxy.env("SSL_CERT_FILE", root.path()).env("HTTPS_PROXY", proxy);
    assert_reports(through_proxy, 69, &["manager.invalid (HTTPS_PROXY is set) failed", "Connection refused"]).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_reported_with_its_cause() {
    let tenant = SERVICE.migrated("databases").await;
    let database = || SERVICE.launch(&tenant).env("APP_DATABASE__HOST", "127.0.0.1");
    let nowhere = database().env("APP_DATABASE__HOST", "nowhere.invalid");
    assert_reports(nowhere, 69, &["database at nowhere.invalid:", "does not resolve", "correct database.host"]).await;
    let closed = database().env("APP_DATABASE__PORT", free_port().to_string());
    assert_reports(closed, 69, &["database at 127.0.0.1:", "Connection refused"]).await;
    // The database of a tenant has no TLS.
    let no_tls = SERVICE.launch(&tenant).env("APP_DATABASE__TLS", "require");
    assert_reports(no_tls, 69, &["database at ", "the server has no TLS", "database.tls"]).await;

    let identity = Authority::new("corporate").local(Validity::days(1));
    let foreign = StandIn::tls_after(&identity, HAS_TLS).await;
    let launch = database().env("APP_DATABASE__PORT", foreign.port().to_string());
    let launch = launch.env("APP_DATABASE__TLS", "verify-full");
    let texts = ["database at 127.0.0.1:", "not trusted", "database.tls_root_cert"];
    assert_reports(launch, 69, &texts).await;
    let launch = database().env("APP_DATABASE__PORT", foreign.port().to_string());
    let launch = launch.env("APP_DATABASE__TLS", "verify-full").env("APP_DATABASE__TLS_ROOT_CERT", "/nonexistent/ca");
    assert_reports(launch, 69, &["No such file or directory", "put the file of database.tls_root_cert there"]).await;
}

#[tokio::test]
async fn a_database_that_wants_tls_is_reported_as_that() {
    let tenant = SERVICE.migrated("wants_tls").await;
    let wants_tls = StandIn::start(refuse_without_encryption).await;
    let launch = SERVICE.launch(&tenant).env("APP_DATABASE__HOST", Ipv4Addr::LOCALHOST.to_string());
    let launch = launch.env("APP_DATABASE__PORT", wants_tls.port().to_string());
    assert_reports(launch, 77, &["no encryption", "the server wants TLS, so set database.tls"]).await;
}

/// Answers a log-in as a PostgreSQL whose `pg_hba.conf` has only `hostssl` lines.
async fn refuse_without_encryption(mut connection: TcpStream) {
    let _ = connection.read(&mut [0; 1024]).await;
    let text = "Mno pg_hba.conf entry for host \"127.0.0.1\", user \"u\", database \"d\", no encryption";
    let fields = format!("SFATAL\0VFATAL\0C28000\0{text}\0\0");
    let length = u32::try_from(fields.len() + 4).expect("it is short");
    let _ = connection.write_all(&[b"E", &length.to_be_bytes()[..], fields.as_bytes()].concat()).await;
}
