//! Client certificates, and the rotation of those who vouch for them.

use crate::{RunningService, config::Folder, migrated, service, tls_client::TlsClient};
use devstack::{Authority, Identity, Launch, Tenant, Validity};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;

/// A tenant whose clients need a certificate of `authority`.
async fn guarded(label: &str, authority: &Authority) -> Tenant {
    let tenant = migrated(label).await;
    tenant.put_random("server_tls", "tls_identity").await.expect("it is planted");
    tenant.put("client_ca", authority.certificate()).await.expect("it is planted");
    tenant
}

fn with_clients(tenant: &Tenant) -> Launch {
    service(tenant).env("APP_SERVER__CLIENT_CA", tenant.id("client_ca"))
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_authority_come_in() {
    let clients = Authority::new("clients");
    let tenant = guarded("clients", &clients).await;
    let running = RunningService::start_tls(with_clients(&tenant), &tenant).await;
    let at = &running.at.public;
    let shows = |identity: &Identity| TlsClient::showing(tenant.authority(), identity);
    shows(&clients.client("orders", Validity::days(9))).get(at, "/v1/notes").await.expect("it is known");
    TlsClient::new(tenant.authority()).get(at, "/v1/notes").await.err().expect("it shows none");
    let who = clients.client("billing", Validity::days(9)).for_client();
    let http = tenant.authority().trusted().identity(who).build().unwrap();
    let posted = http.post(format!("https://{at}/v1/notes")).json(&json!({ "body": "mine" })).send().await.unwrap();
    let note: Value = posted.json().await.unwrap();
    assert_eq!(note["created_by"], "CN=billing", "{note}");
    let stranger = Authority::new("clients").client("orders", Validity::days(9));
    shows(&stranger).get(at, "/v1/notes").await.err().expect("it is of another authority");
    let over = clients.client("orders", Validity::over());
    shows(&over).get(at, "/v1/notes").await.err().expect("it has ended");
    let server = clients.local(Validity::days(9));
    shows(&server).get(at, "/v1/notes").await.err().expect("it is for servers");
}

#[tokio::test]
async fn other_authorities_count_from_the_next_handshake_on() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tenant = guarded("clients_rotate", &old).await;
    let mut running = RunningService::start_tls(with_clients(&tenant), &tenant).await;
    let at = running.at.public.clone();
    let client = TlsClient::showing(tenant.authority(), &old.client("orders", Validity::days(9)));
    let (mut open, _) = client.get(&at, "/v1/notes").await.unwrap();

    // While clients move, both vouch.
    tenant.put("client_ca", &[old.certificate(), new.certificate()].concat()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    client.get(&at, "/v1/notes").await.unwrap();
    let moved = TlsClient::showing(tenant.authority(), &new.client("orders", Validity::days(9)));
    moved.get(&at, "/v1/notes").await.unwrap();

    // Opened before, and begun after.
    let early = TcpStream::connect(&at).await.unwrap();
    tenant.put("client_ca", new.certificate()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    client.get_over(early, "/v1/notes").await.expect_err("a handshake has what is in service when it begins");
    client.get(&at, "/v1/notes").await.err().expect("nobody vouches for it any more, and no session is resumed");
    moved.get(&at, "/v1/notes").await.unwrap();
    assert!(open.get("/v1/notes").await.unwrap().starts_with("HTTP/1.1 200"), "an open connection lives on");
}

#[tokio::test]
async fn a_client_whose_certificate_has_ended_does_not_come_in_on_an_old_session() {
    let clients = Authority::new("clients");
    let tenant = guarded("clients_end", &clients).await;
    let running = RunningService::start_tls(with_clients(&tenant), &tenant).await;
    let short = clients.client("orders", Validity::lasting(Duration::from_secs(4)));
    for versions in [&[&TLS12], &[&TLS13]] {
        let client = TlsClient::speaking(tenant.authority(), versions, Some(&short), &[]);
        client.get(&running.at.public, "/v1/notes").await.expect("it is in date");
        let (second, _) = client.get(&running.at.public, "/v1/notes").await.expect("it is in date");
        assert!(!second.resumed(), "each handshake looks at the certificate");
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let client = TlsClient::showing(tenant.authority(), &short);
    client.get(&running.at.public, "/v1/notes").await.err().expect("it has ended");
}

#[tokio::test]
async fn listeners_and_client_authorities_are_switched_by_a_signal() {
    let clients = Authority::new("clients");
    let (tenant, folder) = (guarded("clients_switch", &clients).await, Folder::new());
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
    let commands = |arguments: &[&str]| {
        let exited = folder.launch(&tenant).args(arguments).env("APP_ADMIN__LISTEN", at.admin.as_str()).run();
        assert_eq!(exited.code, Some(0), "{arguments:?}: {}", exited.stderr);
    };
    // The commands find the listener, whichever way it speaks by now.
    for (server, admin, anonymous_in, known_in) in [
        ("tls = true", "tls = true", true, true),
        (&client_ca, "tls = false", false, true),
        ("tls = true", "tls = false", true, true),
        ("tls = false", "tls = true", false, false),
        (&client_ca, "tls = true", false, true),
    ] {
        write(server, admin);
        commands(&["health", "live"]);
        commands(&["reload", "--wait"]);
        commands(&["health", "ready"]);
        assert_eq!(anonymous.get(&at.public, "/v1/notes").await.is_ok(), anonymous_in, "{server}");
        assert_eq!(known.get(&at.public, "/v1/notes").await.is_ok(), known_in, "{server}");
        assert_eq!(anonymous.get(&at.admin, "/livez").await.is_ok(), admin == "tls = true", "{admin}");
    }
}

#[tokio::test]
async fn a_bundle_that_vouches_for_nobody_is_refused() {
    let clients = Authority::new("clients");
    let tenant = guarded("clients_bad", &clients).await;
    let mut running = RunningService::start_tls(with_clients(&tenant), &tenant).await;
    let leaf = clients.client("orders", Validity::days(9)).certificate;
    let over = Authority::lasting("over", Duration::from_secs(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cases = [
        ("sentinel", "in PEM"),
        ("{\"certificate\": \"\"}", "in PEM"),
        (&leaf, "authorities alone"),
        (over.certificate(), "in date"),
    ];
    for (value, says) in cases {
        tenant.put("client_ca", value).await.unwrap();
        let reload = running.reload().await;
        assert_eq!(reload["exit_code"], 65);
        assert!(reload["error"].as_str().unwrap().contains(says), "{reload}");
    }
    // One that has ended vouches for nobody; it must not keep out those of the others.
    let both = [clients.certificate(), over.certificate()].concat();
    let json = json!({ "ca.crt": both }).to_string();
    tenant.put("client_ca", &json).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let comes_in = async |authority: &Authority| {
        let identity = authority.client("orders", Validity::days(9));
        TlsClient::showing(tenant.authority(), &identity).get(&running.at.public, "/v1/notes").await.is_ok()
    };
    assert!(comes_in(&clients).await);
    assert!(!comes_in(&over).await);
}
