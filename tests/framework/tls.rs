//! HTTPS, and the rotation of its certificate.

use crate::{
    DEFAULT_TIMEOUT, Notes, RunningService, migrated, service, tenant,
    tls_client::{TlsClient, certificates},
};
use devstack::{Authority, Identity, Tenant, Validity};
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A tenant with tables and a certificate for its service.
async fn with_certificate(label: &str) -> (Tenant, Identity) {
    let tenant = migrated(label).await;
    let identity = tenant.authority().local(Validity::days(90));
    tenant.put_identity("server_tls", &identity).await.expect("it is planted");
    (tenant, identity)
}

#[tokio::test]
async fn https_speaks_tls_1_2_and_1_3_and_both_versions_of_http() {
    let (tenant, identity) = with_certificate("tls").await;
    let running = RunningService::start_tls(service(&tenant), &tenant).await;
    let own = &certificates(&identity.certificate)[0];
    for version in [&TLS12, &TLS13] {
        for protocol in [&b"h2"[..], b"http/1.1"] {
            let client = TlsClient::speaking(tenant.authority(), &[version], None, &[protocol]);
            let connection = client.connect(&running.at.public).await.unwrap();
            assert_eq!(connection.protocol(), Some(protocol), "{version:?}");
            assert_eq!(connection.certificate(), *own);
        }
    }
    let note = running.create("over h2").await;
    let answer = running.get(&note).await;
    assert_eq!((answer.status().as_u16(), answer.version()), (200, devstack::reqwest::Version::HTTP_2));
    let (_, answer) = TlsClient::new(tenant.authority()).get(&running.at.public, &note).await.unwrap();
    assert!(answer.contains("over h2"), "{answer}");
}

#[tokio::test]
async fn a_certificate_is_swapped_under_load_without_a_failed_handshake() {
    let (tenant, first) = with_certificate("tls_swap").await;
    let mut running = RunningService::start_tls(service(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let (mut old, _) = TlsClient::new(tenant.authority()).get(&running.at.public, &note).await.unwrap();

    let (stop, handshakes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let client = TlsClient::new(tenant.authority());
            let (stop, handshakes) = (stop.clone(), handshakes.clone());
            let (address, note) = (running.at.public.clone(), note.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (_, answer) = client.get(&address, &note).await.expect("a handshake and an answer");
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    handshakes.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut last = first.clone();
    for _ in 0..5 {
        let before = handshakes.load(Ordering::Relaxed);
        last = tenant.authority().local(Validity::days(90));
        tenant.put_identity("server_tls", &last).await.unwrap();
        assert_eq!(running.reload().await["outcome"], "published");
        let (connection, _) = TlsClient::new(tenant.authority()).get(&running.at.public, &note).await.unwrap();
        assert_eq!(connection.certificate(), certificates(&last.certificate)[0]);
        let start = Instant::now();
        while handshakes.load(Ordering::Relaxed) < before + 20 {
            assert!(start.elapsed() < DEFAULT_TIMEOUT, "the load stands still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("no failed handshake");
    }
    assert!(old.get(&note).await.unwrap().starts_with("HTTP/1.1 200"), "an open connection lives on");

    let client = TlsClient::new(tenant.authority());
    let (first_time, _) = client.get(&running.at.public, &note).await.unwrap();
    assert!(!first_time.resumed());
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let (again, _) = client.get(&running.at.public, &note).await.unwrap();
    assert!(again.resumed(), "another credential is nothing to a session");
    assert_eq!(old.certificate(), certificates(&first.certificate)[0]);
    assert_ne!(old.certificate(), certificates(&last.certificate)[0]);
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_its_key_refuses_the_whole_set() {
    let (tenant, identity) = with_certificate("tls_torn").await;
    let mut running = RunningService::start_tls(service(&tenant), &tenant).await;
    let (signing, held) = (running.credential("signing").await, running.credential("server_tls").await);

    let other = tenant.authority().local(Validity::days(90));
    let torn = Identity { private_key: other.private_key, ..identity.clone() };
    tenant.put_identity("server_tls", &torn).await.unwrap();
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    let reload = running.reload().await;
    assert_eq!((&reload["outcome"], &reload["exit_code"]), (&json!("kept"), &json!(65)), "{reload}");
    assert!(reload["error"].as_str().unwrap().contains("a private key that fits"), "{reload}");
    assert_eq!(running.credential("signing").await["version"], signing["version"], "all of it or nothing");
    assert_eq!(running.credential("server_tls").await["version"], held["version"]);
    let connection = TlsClient::new(tenant.authority()).connect(&running.at.public).await.unwrap();
    assert_eq!(connection.certificate(), certificates(&identity.certificate)[0]);

    let start = service(&tenant).env("APP_SERVER__TLS", "true").run();
    assert_eq!(start.code, Some(65), "{}", start.stderr);
    assert!(start.stderr.contains("server_tls"), "{}", start.stderr);
    assert!(!start.stdout.contains("\"listening\""), "{}", start.stdout);
}

#[tokio::test]
async fn a_certificate_that_clients_would_refuse_is_refused_at_load() {
    let (tenant, good) = with_certificate("tls_bad").await;
    let mut running = RunningService::start_tls(service(&tenant), &tenant).await;
    let authority = tenant.authority();
    let (local, chain) = (|validity| authority.local(validity), good.certificates());
    let with = |certificate: String| Identity { certificate, ..good.clone() };
    // Of the same name, and with another key.
    let stranger = Authority::new("devstack").local(Validity::days(90));
    let cases = [
        (local(Validity::over()).secret(), "has ended"),
        (local(Validity::not_yet()).secret(), "has not begun"),
        (authority.client("localhost", Validity::days(90)).secret(), "no serverAuth"),
        (with([chain[1], chain[0]].concat()).secret(), "names a host"),
        (with([chain[0], stranger.certificates()[1]].concat()).secret(), "a chain in order"),
        (with([chain[0], authority.certificate(), chain[1]].concat()).secret(), "a chain in order"),
        (with(String::new()).secret(), "the JSON of a certificate"),
        (Identity { private_key: good.certificate.clone(), ..good.clone() }.secret(), "the JSON of a certificate"),
        ("{\"certificate\": \"sentinel\", \"private_key\": \"sentinel\"}".into(), "the JSON of a certificate"),
        ("sentinel".into(), "the JSON of a certificate"),
    ];
    for (value, says) in cases {
        tenant.put("server_tls", &value).await.unwrap();
        let reload = running.reload().await;
        let error = reload["error"].as_str().unwrap_or_default();
        assert!(reload["exit_code"] == 65 && error.contains(says), "{error:?} does not say {says:?}");
    }
    // As cert-manager names them; a chain may end with its root.
    let whole = with([chain[0], chain[1], authority.certificate()].concat());
    let named = json!({ "tls.crt": whole.certificate, "tls.key": whole.private_key }).to_string();
    tenant.put("server_tls", &named).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    TlsClient::new(authority).connect(&running.at.public).await.unwrap();
}

#[tokio::test]
async fn the_certificate_must_be_for_the_names_that_are_configured() {
    let (tenant, _) = with_certificate("tls_names").await;
    let launch = || service(&tenant).env("APP_SERVER__TLS_NAMES", "localhost,127.0.0.1");
    let mut running = RunningService::start_tls(launch(), &tenant).await;
    let other = tenant.authority().issue(&["localhost", "notes.example"], Validity::days(90));
    tenant.put_identity("server_tls", &other).await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["exit_code"], 65);
    assert!(reload["error"].as_str().unwrap().contains("each of server.tls_names"), "{reload}");
    let start = launch().env("APP_SERVER__TLS", "true").run();
    assert_eq!(start.code, Some(65), "{}", start.stderr);
    // It does not keep a dead password in service.
    let version = tenant.rotate("database").await.unwrap();
    tenant.kill_connections(&tenant.app_role()).await.unwrap();
    running.create("with the new password").await;
    assert_eq!(running.credential("database").await["version"], version.as_str());
    let carried_over = running.status().await["last_reload"]["carried_over"].clone();
    assert_eq!(carried_over[0]["credential"], "server_tls", "{carried_over}");
    tenant.put_identity("server_tls", &tenant.authority().issue(&LOCAL, Validity::days(9))).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
}

#[tokio::test]
async fn a_certificate_that_has_ended_in_service_does_not_hold_up_a_password() {
    let (tenant, _) = with_certificate("tls_ended").await;
    let short = tenant.authority().local(Validity::lasting(Duration::from_secs(8)));
    tenant.put_identity("server_tls", &short).await.unwrap();
    let mut running = RunningService::start(service(&tenant).env("APP_SERVER__TLS", "true"), &tenant).await;
    let ended = |line: &str| line.contains("has ended, and is still in service") && line.contains("\"ERROR\"");
    running.process.wait_for_line(ended, DEFAULT_TIMEOUT).await;
    let version = tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.credential("database").await["version"], version.as_str());
    assert_eq!(service(&tenant).env("APP_SERVER__TLS", "true").run().code, Some(65), "a start refuses it");
}

#[tokio::test]
async fn who_forgets_the_s_of_https_is_told() {
    let (tenant, _) = with_certificate("tls_plain").await;
    let running = RunningService::start_tls(service(&tenant), &tenant).await;
    let plain = devstack::reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = plain.get(format!("http://{}/v1/notes", running.at.public)).send().await.expect("an answer");
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("https://"));
    // Somebody who still sends must not be reset before the answer is read.
    let mut raw = TcpStream::connect(&running.at.public).await.unwrap();
    for _ in 0..3 {
        raw.write_all(&[b'P'; 20_000]).await.expect("it is still listened to");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    raw.shutdown().await.expect("it is still listened to");
    let mut answer = String::new();
    raw.read_to_string(&mut answer).await.expect("a clean close");
    assert!(answer.contains("https://"), "{answer}");
    let mut raw = TcpStream::connect(&running.at.public).await.unwrap();
    raw.write_all(&[22, 3, 1, 0, 4, 99, 0, 0, 0]).await.unwrap();
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await.expect("a clean close");
    assert_eq!(answer.first(), Some(&21), "a TLS alert");
    let (_, _, metrics) = running.page("/metrics").await;
    let failed = |listener| format!("vestibule_tls_handshakes_failed_total{{listener=\"{listener}\"}} ");
    assert!(metrics.contains(&(failed("public") + "3")) && metrics.contains(&(failed("admin") + "0")), "{metrics}");
}

#[tokio::test]
async fn handshakes_that_never_end_hold_up_nobody_and_are_ended() {
    let (tenant, _) = with_certificate("tls_slow").await;
    let running = RunningService::start_tls(service(&tenant), &tenant).await;
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
    assert!(start.elapsed() < Duration::from_secs(5), "it waited for others: {:?}", start.elapsed());
    for mut socket in idle {
        let ended = tokio::time::timeout(DEFAULT_TIMEOUT, socket.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection is still open");
    }
}

#[tokio::test]
async fn the_end_of_a_certificate_is_seen_and_spoken_of() {
    let (tenant, _) = with_certificate("tls_expiry").await;
    let put = async |length: Duration| {
        let identity = tenant.authority().local(Validity::lasting(length));
        tenant.put_identity("server_tls", &identity).await.unwrap()
    };
    let day = Duration::from_secs(24 * 60 * 60);
    put(6 * day + day / 2).await;
    let mut running = RunningService::start_tls(service(&tenant), &tenant).await;
    let warned = |running: &RunningService<'_>| {
        let about = |event: &serde_json::Value| {
            event["fields"]["message"].as_str().is_some_and(|text| text.contains("about to end"))
        };
        running
            .process
            .events()
            .into_iter()
            .filter(about)
            .map(|event| event["fields"]["credential.days_left"].clone())
            .collect()
    };
    let until = async |running: &RunningService<'_>, wanted: Vec<serde_json::Value>| {
        let start = Instant::now();
        while warned(running) != wanted {
            let seen: Vec<serde_json::Value> = warned(running);
            assert!(start.elapsed() < DEFAULT_TIMEOUT, "{seen:?} is not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(&running, vec![json!(6)]).await;
    let expires = running.credential("server_tls").await["expires"].clone();
    assert!(expires.as_str().unwrap().ends_with('Z'), "{expires}");
    let told =
        running.process.events().into_iter().find_map(|event| event["fields"].get("credential.expires").cloned());
    assert_eq!(told, Some(expires));
    assert_eq!(running.credential("signing").await["expires"], json!(null));
    let (_, _, metrics) = running.page("/metrics").await;
    let expiry = metrics.lines().filter(|line| line.starts_with("vestibule_credential_expiry_timestamp_seconds{"));
    let expiry: Vec<_> = expiry.collect();
    assert_eq!(expiry.len(), 1, "{expiry:?}");
    let at = expiry[0].strip_prefix("vestibule_credential_expiry_timestamp_seconds{name=\"server_tls\"} ").unwrap();
    let in_seconds = at.parse::<f64>().unwrap() - std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((6.0..7.0).contains(&(in_seconds / day.as_secs_f64())), "{in_seconds}");

    put(60 * day).await;
    assert_eq!(running.reload().await["outcome"], "published");
    // It crosses a notice while it is in service.
    put(day + Duration::from_secs(10)).await;
    assert_eq!(running.reload().await["outcome"], "published");
    until(&running, vec![json!(6), json!(1), json!(0)]).await;
}

#[tokio::test]
async fn the_admin_listener_speaks_tls_and_the_commands_with_it() {
    let (tenant, _) = with_certificate("tls_admin").await;
    let mut process = service(&tenant).env("APP_ADMIN__TLS", "true").start();
    let at = process.listening().await;
    let client = tenant.authority().trusted().build().unwrap();
    let readyz = client.get(format!("https://{}/readyz", at.admin)).send().await.unwrap();
    assert_eq!(readyz.status(), 200);
    let public = devstack::reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(public.get(format!("http://{}/v1/notes", at.public)).send().await.unwrap().status(), 200);

    let command = |arguments: &[&str]| {
        let launch = service(&tenant).args(arguments).env("APP_ADMIN__TLS", "true");
        launch.env("APP_ADMIN__LISTEN", at.admin.as_str()).run()
    };
    let health = command(&["health"]);
    assert_eq!(health.code, Some(0), "{}", health.stderr);
    let reload = command(&["reload", "--wait"]);
    assert_eq!(reload.code, Some(0), "{}", reload.stderr);
    let url = format!("https://{}", at.admin);
    assert_eq!(command(&["audit", &url]).code, Some(69), "nobody here trusts this authority");
    let file = std::env::temp_dir().join(format!("{}-ca.pem", tenant.name()));
    std::fs::write(&file, tenant.authority().certificate()).unwrap();
    let audit = command(&["audit", &url, "--ca", file.to_str().unwrap()]);
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
    assert!(audit.stdout.contains("server_tls"), "{}", audit.stdout);
    // As it is with most certificates: for the name that clients use, not for each replica's address.
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
    assert!(audit.stderr.contains("no certificate can be read") && !audit.stderr.contains("sentinel"));
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_service_with_tls_needs_its_certificate_and_one_without_asks_for_none() {
    let tenant = tenant("tls_missing").await;
    let start = service(&tenant).env("APP_SERVER__TLS", "true").run();
    assert_eq!(start.code, Some(66), "{}", start.stderr);
    assert!(start.stderr.contains(&tenant.id("server_tls")), "{}", start.stderr);
    let config = |tls: &str| {
        let launch = service(&tenant).args(["config", "--json"]).env("APP_SERVER__TLS", tls);
        let json: serde_json::Value = serde_json::from_str(&launch.run().stdout).unwrap();
        json["credentials"].as_array().unwrap().iter().any(|one| one["kind"] == "tls_identity")
    };
    assert!(config("true") && !config("false"));
    let bare = crate::SERVICE
        .launch_without_tenant()
        .await
        .args(["check"])
        .env("APP_SERVER__CLIENT_CA", "notes/clients")
        .run();
    assert_eq!(bare.code, Some(78), "{}", bare.stderr);
    assert!(bare.stderr.contains("server.tls = true"), "{}", bare.stderr);
}
