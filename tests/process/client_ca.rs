//! Client certificates, and the rotation of those who vouch for them.

use crate::{Running, migrated, service, tls_client::TlsClient};
use devstack::{Authority, Identity, Launch, Tenant, Validity};
use serde_json::{Value, json};
use std::time::Duration;

/// A tenant whose clients need a certificate of `authority`.
async fn guarded(label: &str, authority: &Authority) -> Tenant {
    let tenant = migrated(label).await;
    tenant.plant("server_tls", "tls_identity").await.expect("it is planted");
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
    let running = Running::start_tls(with_clients(&tenant), &tenant).await;
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
async fn other_authorities_count_from_the_next_handshake_on_and_end_every_session() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tenant = guarded("clients_rotate", &old).await;
    let mut running = Running::start_tls(with_clients(&tenant), &tenant).await;
    let at = running.at.public.clone();
    let identity = old.client("orders", Validity::days(9));
    let client = TlsClient::showing(tenant.authority(), &identity);
    let (mut open, _) = client.get(&at, "/v1/notes").await.unwrap();
    assert!(!open.resumed());
    let (second, _) = client.get(&at, "/v1/notes").await.unwrap();
    assert!(second.resumed(), "a session is resumed while nothing changes");
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let (third, _) = client.get(&at, "/v1/notes").await.unwrap();
    assert!(third.resumed(), "another credential is nothing to it");

    // While clients move, both vouch.
    tenant.put("client_ca", &[old.certificate(), new.certificate()].concat()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let (fourth, _) = client.get(&at, "/v1/notes").await.unwrap();
    assert!(!fourth.resumed(), "a session does not outlive the authorities it began under");
    let moved = TlsClient::showing(tenant.authority(), &new.client("orders", Validity::days(9)));
    moved.get(&at, "/v1/notes").await.unwrap();

    tenant.put("client_ca", new.certificate()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    client.get(&at, "/v1/notes").await.err().expect("nobody vouches for it any more");
    moved.get(&at, "/v1/notes").await.unwrap();
    assert!(open.get("/v1/notes").await.unwrap().starts_with("HTTP/1.1 200"), "an open connection lives on");
}

#[tokio::test]
async fn a_bundle_that_vouches_for_nobody_is_refused() {
    let clients = Authority::new("clients");
    let tenant = guarded("clients_bad", &clients).await;
    let mut running = Running::start_tls(with_clients(&tenant), &tenant).await;
    let leaf = clients.client("orders", Validity::days(9)).certificate;
    let over = Authority::lasting("over", Duration::from_secs(1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let both = [clients.certificate(), over.certificate()].concat();
    let cases = [
        ("sentinel", "in PEM"),
        ("{\"certificate\": \"\"}", "in PEM"),
        (&leaf, "authorities alone"),
        (&both, "has ended"),
    ];
    for (value, says) in cases {
        tenant.put("client_ca", value).await.unwrap();
        let reload = running.reload().await;
        assert_eq!(reload["exit_code"], 65);
        assert!(reload["error"].as_str().unwrap().contains(says), "{reload}");
    }
    let json = json!({ "ca.crt": clients.certificate() }).to_string();
    tenant.put("client_ca", &json).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
}
