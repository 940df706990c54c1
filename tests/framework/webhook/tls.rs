//! Deliveries over TLS, and their connections.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::temporary_file::TemporaryFile,
    webhook_setup::{current_key, launch_with_webhook, tenant_with_receiver, wait_for_outbox_rows},
};
use devstack::{Authority, DEFAULT_TIMEOUT, Receiver, RunningService, Signal, Validity};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

#[tokio::test]
async fn a_webhook_needs_a_certificate_of_an_authority_that_the_platform_trusts() {
    let tenant = SERVICE.migrated("hook_tls").await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    let roots = TemporaryFile::new(trusted.certificate());
    let start = async |receiver: &Receiver| {
        let launch = launch_with_webhook(&tenant, receiver.address());
        let launch = launch.env("APP_SERVICE__WEBHOOK_URL", receiver.url()).env("SSL_CERT_FILE", roots.path());
        // The libraries log requests, but no keys: the output is searched at the end.
        let launch = launch.env("APP_TELEMETRY__FILTER", "trace");
        let running = RunningService::start(launch, &tenant).await;
        running.create_note("a note").await;
        running
    };
    let receiver = Receiver::with_tls(&other.local(Validity::days(1))).unwrap();
    let mut running = start(&receiver).await;
    wait_for_outbox_rows(&tenant, "last_error LIKE '%authority that is not trusted%SSL_CERT_FILE%'", 1).await;
    assert_eq!(receiver.requests().len(), 0);
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));

    let receiver = Receiver::with_tls(&trusted.local(Validity::days(1))).unwrap();
    receiver.accept([current_key(&tenant).await]);
    let _running = start(&receiver).await;
    receiver.wait_until(|deliveries| deliveries.len() == 2).await;
}

/// Starts a relay to an address. At `dead` the first connection goes silent, and neither side is told. Returns the
/// address of the relay.
async fn start_relay(to: SocketAddr, dead: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let mut dead = Some(dead);
        while let Ok((mut near, _)) = listener.accept().await {
            let dies = dead.take();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.expect("it listens");
                let both = tokio::io::copy_bidirectional(&mut near, &mut far);
                match dies {
                    None => drop(both.await),
                    Some(dead) => tokio::select! {
                        _ = both => (),
                        () = dead.notified() => std::future::pending().await,
                    },
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_connection_that_goes_silent_is_given_up() {
    let tenant = SERVICE.migrated("hook_dead_h2").await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    let authority = Authority::new("trusted");
    let roots = TemporaryFile::new(authority.certificate());
    let receiver = Receiver::with_tls(&authority.local(Validity::days(1))).unwrap();
    receiver.accept([current_key(&tenant).await]);
    let dead = Arc::new(Notify::new());
    let address = start_relay(receiver.address(), dead.clone()).await;
    let launch = launch_with_webhook(&tenant, address).env("SSL_CERT_FILE", roots.path());
    let launch = launch.env("APP_SERVICE__WEBHOOK_URL", format!("https://{address}/hook"));
    let running = RunningService::start(launch, &tenant).await;
    running.create_note("before").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    // If the connection died before its answer arrived, the first event would be delivered again.
    wait_for_outbox_rows(&tenant, "true", 0).await;
    dead.notify_one();
    running.create_note("after").await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    assert_ne!(deliveries[0].header("idempotency-key"), deliveries[1].header("idempotency-key"));
}

#[tokio::test]
async fn a_platform_without_trusted_authorities_ends_with_78() {
    let (tenant, _receiver) = tenant_with_receiver("hook_roots").await;
    let roots = TemporaryFile::new("");
    let launch = launch_with_webhook(&tenant, ([127, 0, 0, 1], 1).into())
        .env("APP_SERVICE__WEBHOOK_URL", "https://127.0.0.1:1/hook")
        .env("SSL_CERT_FILE", roots.path());
    let exited = launch.run();
    assert_eq!(exited.code, Some(78), "{} {}", exited.stdout, exited.stderr);
    assert!(exited.stderr.contains("SSL_CERT_FILE"), "{}", exited.stderr);
}
