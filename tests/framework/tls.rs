//! HTTPS, and the rotation of its certificate.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        database::cut_connections,
        log_events::events_that_say,
        reload_status::{assert_kept, assert_taken_up, wait_for_version},
        tls_client::{TlsClient, certificates},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use devstack::{
    Authority, DEFAULT_TIMEOUT, Identity, RunningService, Tenant, Validity, eventually,
    reqwest::{Client, Version},
};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Creates a tenant with tables and with a certificate for its service.
async fn tenant_with_certificate(label: &str) -> (Tenant, Identity) {
    let tenant = SERVICE.migrated(label).await;
    let identity = tenant.authority().local(Validity::days(90));
    tenant.put_identity("server_tls", &identity).await.expect("the manager stores it");
    (tenant, identity)
}

#[tokio::test]
async fn https_speaks_tls_1_2_and_1_3_and_both_versions_of_http() {
    let (tenant, identity) = tenant_with_certificate("tls").await;
    let running = RunningService::start_tls(SERVICE.launch(&tenant), &tenant).await;
    let own = &certificates(&identity.certificate)[0];
    for version in [&TLS12, &TLS13] {
        for protocol in [&b"h2"[..], b"http/1.1"] {
            let client = TlsClient::speaking(tenant.authority(), &[version], None, &[protocol]);
            let connection = client.connect(&running.at.public).await.unwrap();
            assert_eq!(connection.protocol(), Some(protocol), "{version:?}");
            assert_eq!(connection.certificate(), *own);
        }
    }
    let note = running.create_note("over h2").await;
    let answer = running.get(&note).await;
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");
    let is_of_tls =
        |event: &Value| event["fields"]["url.scheme"] == "https" && event["fields"]["network.protocol.version"] == "2";
    eventually("its access line", async || running.process.events().iter().any(is_of_tls)).await;
    let (_, answer) = TlsClient::new(tenant.authority()).get(&running.at.public, &note).await.unwrap();
    assert!(answer.contains("over h2"), "{answer}");
}

/// Clients that make one handshake and one request after the other until they are told to stop.
#[derive(Clone, Default)]
struct HandshakeLoad {
    stop: Arc<AtomicBool>,
    handshakes: Arc<AtomicU64>,
}

impl HandshakeLoad {
    /// Starts a client. Its task panics if a handshake or a request fails.
    fn start_client(&self, running: &RunningService<'_>, tenant: &Tenant, path: &str) -> JoinHandle<()> {
        let client = TlsClient::new(tenant.authority());
        let (load, address, path) = (self.clone(), running.at.public.clone(), path.to_owned());
        tokio::spawn(async move {
            while !load.stop.load(Ordering::Relaxed) {
                let (_, answer) = client.get(&address, &path).await.expect("a handshake and an answer");
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                load.handshakes.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Returns the number of handshakes so far.
    fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_certificate_is_rotated_under_load_without_a_failed_handshake() {
    let (tenant, first) = tenant_with_certificate("tls_swap").await;
    let mut running = RunningService::start_tls(SERVICE.launch(&tenant), &tenant).await;
    let note = running.create_note("a note").await;
    let (mut old, _) = TlsClient::new(tenant.authority()).get(&running.at.public, &note).await.unwrap();

    let load = HandshakeLoad::default();
    let clients: Vec<_> = (0..8).map(|_| load.start_client(&running, &tenant, &note)).collect();
    let mut last = first.clone();
    for _ in 0..5 {
        let before = load.handshakes();
        last = tenant.authority().local(Validity::days(90));
        tenant.put_identity("server_tls", &last).await.unwrap();
        assert_eq!(running.reload().await["outcome"], "published");
        let (connection, _) = TlsClient::new(tenant.authority()).get(&running.at.public, &note).await.unwrap();
        assert_eq!(connection.certificate(), certificates(&last.certificate)[0]);
        eventually("20 more handshakes", async || load.handshakes() >= before + 20).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no failed handshake");
    }
    assert!(old.get(&note).await.unwrap().starts_with("HTTP/1.1 200"), "an open connection goes on");

    let client = TlsClient::new(tenant.authority());
    let (first_time, _) = client.get(&running.at.public, &note).await.unwrap();
    assert!(!first_time.resumed());
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let (again, _) = client.get(&running.at.public, &note).await.unwrap();
    assert!(again.resumed(), "the rotation of another credential does not end a session");
    assert_eq!(old.certificate(), certificates(&first.certificate)[0]);
    assert_ne!(old.certificate(), certificates(&last.certificate)[0]);
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_its_key_fails_the_whole_reload() {
    let (tenant, identity) = tenant_with_certificate("tls_torn").await;
    let mut running = RunningService::start_tls(SERVICE.launch(&tenant), &tenant).await;
    let (signing, server_tls) = (running.credential("signing").await, running.credential("server_tls").await);

    let other = tenant.authority().local(Validity::days(90));
    let torn = Identity { private_key: other.private_key, ..identity.clone() };
    tenant.put_identity("server_tls", &torn).await.unwrap();
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    let reload = running.reload().await;
    assert_kept(&reload, 65);
    assert!(reload["error"].as_str().unwrap().contains("a private key that matches"), "{reload}");
    assert_eq!(running.credential("signing").await["version"], signing["version"], "one fault keeps the whole set");
    assert_eq!(running.credential("server_tls").await["version"], server_tls["version"]);
    let connection = TlsClient::new(tenant.authority()).connect(&running.at.public).await.unwrap();
    assert_eq!(connection.certificate(), certificates(&identity.certificate)[0]);

    let start = SERVICE.launch(&tenant).env("APP_SERVER__TLS", "true").run();
    assert_eq!(start.code, Some(65), "{}", start.stderr);
    assert!(start.stderr.contains("server_tls"), "{}", start.stderr);
    assert!(!start.stdout.contains("\"listening\""), "{}", start.stdout);
}

/// Returns a certificate whose common names are in PrintableString: the same names, in other bytes.
fn with_printable_name(pem: &str) -> String {
    const COMMON_NAME: [u8; 5] = [6, 3, 85, 4, 3];
    const PRINTABLE_STRING: u8 = 19;
    let mut der = certificates(pem).remove(0).to_vec();
    for start in 0..der.len() - COMMON_NAME.len() {
        if der[start..].starts_with(&COMMON_NAME) {
            der[start + COMMON_NAME.len()] = PRINTABLE_STRING;
        }
    }
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

#[tokio::test]
async fn a_load_fails_with_a_certificate_that_clients_would_not_accept() {
    let (tenant, good) = tenant_with_certificate("tls_bad").await;
    let mut running = RunningService::start_tls(SERVICE.launch(&tenant), &tenant).await;
    let authority = tenant.authority();
    let (local, chain) = (|validity| authority.local(validity), good.certificates());
    let with = |certificate: String| Identity { certificate, ..good.clone() };
    // An authority of the same name with another key.
    let stranger = Authority::new("devstack").local(Validity::days(90));
    let cases = [
        (local(Validity::over()).secret(), "has expired"),
        (authority.client("localhost", Validity::days(90)).secret(), "serverAuth in its extended key usage"),
        (with([chain[1], chain[0]].concat()).secret(), "names a host"),
        (with([chain[0], stranger.certificates()[1]].concat()).secret(), "a chain in order"),
        (with([chain[0], authority.certificate(), chain[1]].concat()).secret(), "a chain in order"),
        (with([chain[0], &with_printable_name(chain[1])].concat()).secret(), "with the same bytes as the next"),
        (with([chain[0], chain[0], chain[1]].concat()).secret(), "a chain in order"),
        (with(String::new()).secret(), "certificates in PEM and nothing else"),
        (with(format!("{}{}", good.certificate, good.private_key)).secret(), "certificates in PEM and nothing else"),
        (with(good.certificate.replacen("-----E", "----E", 1)).secret(), "certificates in PEM and nothing else"),
        (Identity { private_key: good.certificate.clone(), ..good.clone() }.secret(), "one private key in PEM"),
        (Identity { private_key: good.private_key.repeat(2), ..good.clone() }.secret(), "one private key in PEM"),
        ("{\"certificate\": \"sentinel\", \"private_key\": \"sentinel\"}".into(), "certificates in PEM"),
        ("sentinel".into(), "the JSON of a certificate"),
    ];
    for (value, problem) in cases {
        tenant.put("server_tls", &value).await.unwrap();
        let reload = running.reload().await;
        let error = reload["error"].as_str().unwrap_or_default();
        assert!(reload["exit_code"] == 65 && error.contains(problem), "{error:?} does not contain {problem:?}");
    }
    tenant.put_identity("server_tls", &local(Validity::not_yet())).await.unwrap();
    let reload = running.reload().await;
    assert_kept(&reload, 69);
    assert!(reload["error"].as_str().unwrap().contains("is not valid yet"), "{reload}");
    // The field names of cert-manager, and a chain that ends with its root.
    let with_root = with([chain[0], chain[1], authority.certificate()].concat());
    let named = json!({ "tls.crt": with_root.certificate, "tls.key": with_root.private_key }).to_string();
    tenant.put("server_tls", &named).await.unwrap();
    assert_taken_up(&running.reload().await);
    TlsClient::new(authority).connect(&running.at.public).await.unwrap();
    // `cat` glues files that do not end with a newline. The client knows only the root, so it needs the whole chain.
    let glued = Identity { certificate: [chain[0].trim(), chain[1].trim()].concat(), ..good.clone() };
    assert!(glued.certificate.contains("----------"), "{}", glued.certificate);
    tenant.put_identity("server_tls", &glued).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    TlsClient::new(authority).connect(&running.at.public).await.unwrap();
}

#[tokio::test]
async fn the_certificate_must_be_for_the_names_that_are_configured() {
    let (tenant, _) = tenant_with_certificate("tls_names").await;
    let launch = || SERVICE.launch(&tenant).env("APP_SERVER__TLS_NAMES", "localhost,127.0.0.1");
    let mut running = RunningService::start_tls(launch(), &tenant).await;
    let other = tenant.authority().issue(&["localhost", "notes.example"], Validity::days(90));
    tenant.put_identity("server_tls", &other).await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["exit_code"], 65);
    assert!(reload["error"].as_str().unwrap().contains("each of server.tls_names"), "{reload}");
    let start = launch().env("APP_SERVER__TLS", "true").run();
    assert_eq!(start.code, Some(65), "{}", start.stderr);
    // The unsuitable certificate does not keep a rejected password in service.
    let version = tenant.rotate("database").await.unwrap();
    cut_connections(&tenant).await;
    running.create_note("with the new password").await;
    wait_for_version(&running, "database", &version).await;
    let is_named = |status: &Value| status["last_reload"]["carried_over"][0]["credential"] == "server_tls";
    running.wait_until("a reload that carries the certificate over", is_named).await;
    tenant.put_identity("server_tls", &tenant.authority().issue(&LOCAL, Validity::days(9))).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
}

#[tokio::test]
async fn an_expired_certificate_in_service_does_not_block_a_rotated_password() {
    let (tenant, _) = tenant_with_certificate("tls_ended").await;
    let short = tenant.authority().local(Validity::lasting(Duration::from_secs(15)));
    tenant.put_identity("server_tls", &short).await.unwrap();
    let mut running = RunningService::start(SERVICE.launch(&tenant).env("APP_SERVER__TLS", "true"), &tenant).await;
    let is_error = |line: &str| line.contains("has expired and is still in service") && line.contains("\"ERROR\"");
    running.process.wait_for_line(is_error, DEFAULT_TIMEOUT).await;
    let version = tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.credential("database").await["version"], version.as_str());
    assert_eq!(
        SERVICE.launch(&tenant).env("APP_SERVER__TLS", "true").run().code,
        Some(65),
        "a start does not accept it"
    );
}

#[tokio::test]
async fn a_client_that_speaks_http_to_https_gets_an_explanation() {
    let (tenant, _) = tenant_with_certificate("tls_plain").await;
    let running = RunningService::start_tls(SERVICE.launch(&tenant), &tenant).await;
    let plain = Client::builder().no_proxy().build().unwrap();
    let answer = plain.get(format!("http://{}/v1/notes", running.at.public)).send().await.expect("an answer");
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("https://"));
    // A client that is still sending must be able to read the answer: no reset comes before it.
    let mut raw = TcpStream::connect(&running.at.public).await.unwrap();
    for _ in 0..3 {
        raw.write_all(&[b'P'; 20_000]).await.expect("the service still reads");
        // This client is slow on purpose.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    raw.shutdown().await.expect("the service still reads");
    let mut answer = String::new();
    raw.read_to_string(&mut answer).await.expect("a clean close");
    assert!(answer.contains("https://"), "{answer}");
    let mut raw = TcpStream::connect(&running.at.public).await.unwrap();
    raw.write_all(&[22, 3, 1, 0, 4, 99, 0, 0, 0]).await.unwrap();
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await.expect("a clean close");
    assert_eq!(answer.first(), Some(&21), "a TLS alert");
    let failed = async |listener| {
        running.metric(&format!("vestibule_tls_handshakes_failed_total{{listener=\"{listener}\"}}")).await
    };
    // A client sees the end of its connection before the service has counted it.
    eventually("three failed handshakes", async || match failed("public").await {
        3.0 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(failed("admin").await, 0.0);
}

#[tokio::test]
async fn handshakes_that_stall_delay_nobody_and_are_ended() {
    let (tenant, _) = tenant_with_certificate("tls_slow").await;
    let running = RunningService::start_tls(SERVICE.launch(&tenant), &tenant).await;
    let mut idle = Vec::new();
    for number in 0..100 {
        let mut socket = TcpStream::connect(&running.at.public).await.unwrap();
        if number % 2 == 0 {
            // Half of the head of a handshake.
            socket.write_all(&[22, 3, 1]).await.unwrap();
        }
        idle.push(socket);
    }
    let start = Instant::now();
    TlsClient::new(tenant.authority()).get(&running.at.public, "/v1/notes").await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "it has waited for the other handshakes: {:?}", start.elapsed());
    for mut socket in idle {
        let ended = tokio::time::timeout(DEFAULT_TIMEOUT, socket.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection is still open");
    }
}

/// Waits until the log has warned of the end of a certificate with exactly these numbers of days left.
#[track_caller]
fn wait_for_warnings(running: &RunningService<'_>, days_left: &[u64]) -> impl Future<Output = ()> {
    eventually("warnings of the end of a certificate", async move || {
        let mut seen = Vec::new();
        for event in events_that_say(&running.process, "expires soon") {
            seen.push(event["fields"]["credential.days_left"].clone());
        }
        if seen == days_left { Ok(()) } else { Err(format!("{seen:?}, and not {days_left:?}")) }
    })
}

/// Returns the days until a time of the metrics that only `server_tls` has.
fn days_until(what: &str, metrics: &str) -> f64 {
    let series = format!("vestibule_credential_{what}_timestamp_seconds{{");
    let lines: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix(&series)).collect();
    let [line] = lines[..] else { panic!("{lines:?}") };
    let at: f64 = line.strip_prefix("name=\"server_tls\"} ").expect("its name").parse().expect("a time");
    (at - UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64()) / (24.0 * 60.0 * 60.0)
}

#[tokio::test]
async fn the_end_of_a_certificate_is_shown_and_logged_in_time() {
    let (tenant, _) = tenant_with_certificate("tls_expiry").await;
    let put = async |validity| {
        let identity = tenant.authority().local(validity);
        tenant.put_identity("server_tls", &identity).await.unwrap()
    };
    let day = Duration::from_secs(24 * 60 * 60);
    put(Validity::ending_in(6 * day + day / 2)).await;
    let mut running = RunningService::start_tls(SERVICE.launch(&tenant), &tenant).await;
    wait_for_warnings(&running, &[6]).await;
    let expires = running.credential("server_tls").await["expires"].clone();
    assert!(expires.as_str().unwrap().ends_with('Z'), "{expires}");
    let logged =
        running.process.events().into_iter().find_map(|event| event["fields"].get("credential.expires").cloned());
    assert_eq!(logged, Some(expires));
    assert_eq!(running.credential("signing").await["expires"], json!(null));
    let (_, _, metrics) = running.page("/metrics").await;
    assert!((6.0..7.0).contains(&days_until("expiry", &metrics)), "{metrics}");
    assert!((-1.0..0.0).contains(&days_until("due", &metrics)), "{metrics}");

    put(Validity::ending_in(60 * day)).await;
    assert_eq!(running.reload().await["outcome"], "published");
    // A certificate that lives for a day is young for four fifths of it.
    put(Validity::lasting(day)).await;
    assert_eq!(running.reload().await["outcome"], "published");
    let (_, _, metrics) = running.page("/metrics").await;
    assert!((0.7..0.9).contains(&days_until("due", &metrics)), "{metrics}");
    // The time for the last warning comes while the certificate is in service.
    put(Validity::ending_in(day + Duration::from_secs(10))).await;
    assert_eq!(running.reload().await["outcome"], "published");
    wait_for_warnings(&running, &[6, 1, 0]).await;
}

#[tokio::test]
async fn the_admin_listener_speaks_tls_and_the_commands_with_it() {
    let (tenant, _) = tenant_with_certificate("tls_admin").await;
    let mut process = SERVICE.launch(&tenant).env("APP_ADMIN__TLS", "true").start();
    let at = process.listening().await;
    let client = tenant.authority().trusted().build().unwrap();
    let readyz = client.get(format!("https://{}/readyz", at.admin)).send().await.unwrap();
    assert_eq!(readyz.status(), 200);
    let public = Client::builder().no_proxy().build().unwrap();
    assert_eq!(public.get(format!("http://{}/v1/notes", at.public)).send().await.unwrap().status(), 200);

    let command = |arguments: &[&str]| {
        let launch = SERVICE.launch(&tenant).args(arguments).env("APP_ADMIN__TLS", "true");
        launch.env("APP_ADMIN__LISTEN", at.admin.as_str()).run()
    };
    let health = command(&["health"]);
    assert_eq!(health.code, Some(0), "{}", health.stderr);
    let reload = command(&["reload", "--wait"]);
    assert_eq!(reload.code, Some(0), "{}", reload.stderr);
    let url = format!("https://{}", at.admin);
    assert_eq!(command(&["audit", &url]).code, Some(69), "the platform does not trust this authority");
    let file = std::env::temp_dir().join(format!("{}-ca.pem", tenant.name()));
    std::fs::write(&file, tenant.authority().certificate()).unwrap();
    let audit = command(&["audit", &url, "--ca", file.to_str().unwrap()]);
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
    assert!(audit.stdout.contains("server_tls"), "{}", audit.stdout);
    // Like most certificates, this one is for the name that clients use, and not for the address of each replica.
    let named = tenant.authority().issue(&["notes.example"], Validity::days(9));
    tenant.put_identity("server_tls", &named).await.unwrap();
    assert_eq!(command(&["reload", "--wait"]).code, Some(0));
    let file = file.to_str().unwrap();
    assert_eq!(command(&["audit", &url, "--ca", file]).code, Some(69));
    let audit = command(&["audit", &url, "--ca", file, "--name", "notes.example"]);
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
    assert_eq!(command(&["audit", &url, "--name", "two words"]).code, Some(64));
    std::fs::write(file, "sentinel").unwrap();
    let audit = command(&["audit", &url, "--ca", file]);
    assert_eq!(audit.code, Some(64));
    assert!(audit.stderr.contains("expected certificates in PEM") && !audit.stderr.contains("sentinel"));
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_service_needs_a_certificate_only_with_tls() {
    let tenant = SERVICE.tenant("tls_missing").await;
    let start = SERVICE.launch(&tenant).env("APP_SERVER__TLS", "true").run();
    assert_eq!(start.code, Some(66), "{}", start.stderr);
    assert!(start.stderr.contains(&tenant.id("server_tls")), "{}", start.stderr);
    let declares_certificate = |tls: &str| {
        let launch = SERVICE.launch(&tenant).args(["config", "--json"]).env("APP_SERVER__TLS", tls);
        let json: Value = serde_json::from_str(&launch.run().stdout).unwrap();
        json["credentials"].as_array().unwrap().iter().any(|one| one["kind"] == "tls_identity")
    };
    assert!(declares_certificate("true") && !declares_certificate("false"));
    let without_tls =
        SERVICE.launch_without_tenant().await.args(["check"]).env("APP_SERVER__CLIENT_CA", "notes/clients").run();
    assert_eq!(without_tls.code, Some(78), "{}", without_tls.stderr);
    assert!(without_tls.stderr.contains("server.tls = true"), "{}", without_tls.stderr);
}
