//! Client certificates, and the rotation of the authorities that issue them.

use crate::{
    SERVICE,
    support::{configuration_folder::ConfigurationFolder, time_waits::let_time_pass, tls_client::TlsClient},
};
use devstack::{Authority, Identity, Launch, RunningService, Tenant, Validity, eventually};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;

/// Creates a tenant whose clients need a certificate of `authority`.
async fn tenant_with_client_ca(label: &str, authority: &Authority) -> Tenant {
    let tenant = SERVICE.migrated(label).await;
    tenant.put_random("server_tls", "tls_identity").await.expect("the manager stores it");
    tenant.put("client_ca", authority.certificate()).await.expect("the manager stores it");
    tenant
}

/// Prepares the service with client certificates.
fn launch_with_client_ca(tenant: &Tenant) -> Launch {
    SERVICE.launch(tenant).env("APP_SERVER__CLIENT_CA", tenant.id("client_ca"))
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_authority_are_accepted() {
    let clients = Authority::new("clients");
    let tenant = tenant_with_client_ca("clients", &clients).await;
    let running = RunningService::start_tls(launch_with_client_ca(&tenant), &tenant).await;
    let at = &running.at.public;
    let shows = |identity: &Identity| TlsClient::showing(tenant.authority(), identity);
    shows(&clients.client("orders", Validity::days(9)))
        .get(at, "/v1/notes")
        .await
        .expect("the authority has issued it");
    TlsClient::new(tenant.authority()).get(at, "/v1/notes").await.err().expect("it has no certificate");
    let identity = clients.client("billing", Validity::days(9)).for_client();
    let http = tenant.authority().trusted().identity(identity).build().unwrap();
    let posted = http.post(format!("https://{at}/v1/notes")).json(&json!({ "body": "mine" })).send().await.unwrap();
    let note: Value = posted.json().await.unwrap();
    assert_eq!(note["created_by"], "CN=billing", "{note}");
    let stranger = Authority::new("clients").client("orders", Validity::days(9));
    shows(&stranger).get(at, "/v1/notes").await.err().expect("another authority has issued it");
    let expired = clients.client("orders", Validity::over());
    shows(&expired).get(at, "/v1/notes").await.err().expect("the certificate has expired");
    let server = clients.local(Validity::days(9));
    shows(&server).get(at, "/v1/notes").await.err().expect("the certificate is for servers");
}

#[tokio::test]
async fn new_authorities_apply_from_the_next_handshake_on_and_end_the_connections_of_the_old() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tenant = tenant_with_client_ca("clients_rotate", &old).await;
    let launch = launch_with_client_ca(&tenant).env("APP_SERVER__RESPONSE_TIMEOUT", "3s");
    let mut running = RunningService::start_tls(launch, &tenant).await;
    let at = running.at.public.clone();
    let client = TlsClient::showing(tenant.authority(), &old.client("orders", Validity::days(9)));
    client.get(&at, "/v1/notes").await.unwrap();

    // While clients move to the new authority, the service accepts both.
    tenant.put("client_ca", &[old.certificate(), new.certificate()].concat()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    client.get(&at, "/v1/notes").await.unwrap();
    let moved = TlsClient::showing(tenant.authority(), &new.client("orders", Validity::days(9)));
    let (mut idle, _) = client.get(&at, "/v1/notes").await.unwrap();
    let (mut open, _) = client.get(&at, "/v1/notes").await.unwrap();
    let (mut of_moved, _) = moved.get(&at, "/v1/notes").await.unwrap();

    // The connection is opened before the reload, and the handshake begins after it.
    let early = TcpStream::connect(&at).await.unwrap();
    tenant.put("client_ca", new.certificate()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    client
        .get_over(early, "/v1/notes")
        .await
        .expect_err("a handshake has the authorities that are in service when it begins");
    client.get(&at, "/v1/notes").await.err().expect("the old authority is gone, and no session is resumed");
    moved.get(&at, "/v1/notes").await.unwrap();
    eventually("an answer that ends an open connection of the old authorities", async || {
        let answer = open.get("/v1/notes").await.expect("an answer says that it is the last one");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        if answer.contains("connection: close") { Ok(()) } else { Err(answer) }
    })
    .await;
    eventually("the end of the idle connections of the old authorities", async || {
        let ended = "vestibule_connections_ended_total{listener=\"public\",reason=\"authority_changed\"}";
        let number = running.metric(ended).await;
        if number >= 3.0 { Ok(()) } else { Err(number) }
    })
    .await;
    idle.get("/v1/notes").await.expect_err("it was cut");
    of_moved.get("/v1/notes").await.expect_err("it was verified with the old authorities too");
}

#[tokio::test]
async fn a_client_with_an_expired_certificate_cannot_resume_an_old_session() {
    let clients = Authority::new("clients");
    let tenant = tenant_with_client_ca("clients_end", &clients).await;
    let running = RunningService::start_tls(launch_with_client_ca(&tenant), &tenant).await;
    let short = clients.client("orders", Validity::lasting(Duration::from_secs(8)));
    for versions in [&[&TLS12], &[&TLS13]] {
        let client = TlsClient::speaking(tenant.authority(), versions, Some(&short), &[]);
        client.get(&running.at.public, "/v1/notes").await.expect("the certificate has not expired");
        let (second, _) = client.get(&running.at.public, "/v1/notes").await.expect("the certificate has not expired");
        assert!(!second.resumed(), "each handshake checks the certificate");
    }
    let client = TlsClient::showing(tenant.authority(), &short);
    let is_rejected = async || client.get(&running.at.public, "/v1/notes").await.is_err();
    eventually("the end of the certificate", is_rejected).await;
    client.get(&running.at.public, "/v1/notes").await.err().expect("the certificate has expired");
}

#[tokio::test]
async fn a_signal_switches_tls_and_client_certificates_on_and_off() {
    let clients = Authority::new("clients");
    let (tenant, folder) = (tenant_with_client_ca("clients_switch", &clients).await, ConfigurationFolder::new());
    let write = |server: &str, admin: &str| {
        let ports = "listen = \"127.0.0.1:0\"\n";
        folder.write(&format!("[server]\n{ports}{server}\n[admin]\n{admin}\n"));
    };
    let client_ca = format!("tls = true\nclient_ca = \"{}\"", tenant.id("client_ca"));
    write("tls = false", "");
    let mut process = folder.launch(&tenant).start();
    let at = process.listening().await;
    let anonymous = TlsClient::new(tenant.authority());
    let known = TlsClient::showing(tenant.authority(), &clients.client("orders", Validity::days(9)));
    let run = |arguments: &[&str]| {
        let exited = folder.launch(&tenant).args(arguments).env("APP_ADMIN__LISTEN", at.admin.as_str()).run();
        assert_eq!(exited.code, Some(0), "{arguments:?}: {}", exited.stderr);
    };
    // The commands find the admin listener with TLS and without it.
    for (server, admin, anonymous_is_accepted, known_is_accepted) in [
        ("tls = true", "tls = true", true, true),
        (&client_ca, "tls = false", false, true),
        ("tls = true", "tls = false", true, true),
        ("tls = false", "tls = true", false, false),
        (&client_ca, "tls = true", false, true),
    ] {
        write(server, admin);
        run(&["health", "live"]);
        run(&["reload", "--wait"]);
        run(&["health", "ready"]);
        assert_eq!(anonymous.get(&at.public, "/v1/notes").await.is_ok(), anonymous_is_accepted, "{server}");
        assert_eq!(known.get(&at.public, "/v1/notes").await.is_ok(), known_is_accepted, "{server}");
        assert_eq!(anonymous.get(&at.admin, "/livez").await.is_ok(), admin == "tls = true", "{admin}");
    }
}

#[tokio::test]
async fn a_bundle_without_a_valid_authority_is_refused() {
    let clients = Authority::new("clients");
    let tenant = tenant_with_client_ca("clients_bad", &clients).await;
    let mut running = RunningService::start_tls(launch_with_client_ca(&tenant), &tenant).await;
    let leaf = clients.client("orders", Validity::days(9)).certificate;
    let expired = Authority::lasting("expired", Duration::from_secs(1));
    let_time_pass("the authority expires after 1 s", Duration::from_secs(2)).await;
    let cases = [
        ("sentinel", "in PEM"),
        ("{\"certificate\": \"\"}", "in PEM"),
        (&leaf, "only certificates of authorities"),
        (expired.certificate(), "at least one authority that is valid now"),
    ];
    for (value, problem) in cases {
        tenant.put("client_ca", value).await.unwrap();
        let reload = running.reload().await;
        assert_eq!(reload["exit_code"], 65);
        assert!(reload["error"].as_str().unwrap().contains(problem), "{reload}");
    }
    // An expired authority in a bundle does not keep out the clients of the others.
    let both = [clients.certificate(), expired.certificate()].concat();
    let json = json!({ "ca.crt": both }).to_string();
    tenant.put("client_ca", &json).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let is_accepted = async |authority: &Authority| {
        let identity = authority.client("orders", Validity::days(9));
        TlsClient::showing(tenant.authority(), &identity).get(&running.at.public, "/v1/notes").await.is_ok()
    };
    assert!(is_accepted(&clients).await);
    assert!(!is_accepted(&expired).await);
}
