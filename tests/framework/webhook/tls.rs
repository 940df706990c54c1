//! Deliveries by TLS, and their connections.

use crate::hook::{hooked, key, telling, until_rows};
use crate::{DEFAULT_TIMEOUT, Notes, RunningService, migrated, service};
use devstack::{Authority, Receiver, Signal, Validity};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

#[tokio::test]
async fn a_webhook_is_trusted_by_the_authorities_of_the_platform() {
    let tenant = migrated("hook_tls").await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    let roots = std::env::temp_dir().join(format!("roots-{}.pem", devstack::random()));
    std::fs::write(&roots, trusted.certificate()).unwrap();
    let start = async |receiver: &Receiver| {
        let launch = telling(receiver.address(), service(&tenant), &tenant);
        let launch = launch.env("APP_SERVICE__WEBHOOK_URL", receiver.url()).env("SSL_CERT_FILE", &roots);
        // Whatever the libraries say of requests, keys are not in it: the output is searched at the end.
        let launch = launch.env("APP_TELEMETRY__FILTER", "trace");
        let running = RunningService::start(launch, &tenant).await;
        running.create("a note").await;
        running
    };
    let receiver = Receiver::with_tls(&other.local(Validity::days(1))).unwrap();
    let mut running = start(&receiver).await;
    until_rows(&tenant, "last_error LIKE '%invalid peer certificate: UnknownIssuer%'", 1).await;
    assert_eq!(receiver.requests().len(), 0);
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));

    let receiver = Receiver::with_tls(&trusted.local(Validity::days(1))).unwrap();
    receiver.accept([key(&tenant).await]);
    let _running = start(&receiver).await;
    receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    std::fs::remove_file(roots).unwrap();
}

/// Passes connections on. The first goes dead when told so, without a word to either side.
async fn relay(to: SocketAddr, dead: Arc<Notify>) -> SocketAddr {
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
async fn a_connection_that_died_without_a_word_is_given_up() {
    let tenant = migrated("hook_dead_h2").await;
    tenant.put_random("webhook", "api_key").await.unwrap();
    let authority = Authority::new("trusted");
    let roots = std::env::temp_dir().join(format!("roots-{}.pem", devstack::random()));
    std::fs::write(&roots, authority.certificate()).unwrap();
    let receiver = Receiver::with_tls(&authority.local(Validity::days(1))).unwrap();
    receiver.accept([key(&tenant).await]);
    let dead = Arc::new(Notify::new());
    let address = relay(receiver.address(), dead.clone()).await;
    let launch = telling(address, service(&tenant), &tenant).env("SSL_CERT_FILE", &roots);
    let launch = launch.env("APP_SERVICE__WEBHOOK_URL", format!("https://{address}/hook"));
    let running = RunningService::start(launch, &tenant).await;
    running.create("before").await;
    receiver.wait_until(|deliveries| deliveries.len() == 1).await;
    dead.notify_one();
    running.create("after").await;
    let deliveries = receiver.wait_until(|deliveries| deliveries.len() == 2).await;
    assert_ne!(deliveries[0].header("idempotency-key"), deliveries[1].header("idempotency-key"));
    std::fs::remove_file(roots).unwrap();
}

#[tokio::test]
async fn a_platform_that_trusts_nobody_ends_with_78() {
    let (tenant, _receiver) = hooked("hook_roots").await;
    let none = std::env::temp_dir().join(format!("no-roots-{}.pem", devstack::random()));
    std::fs::write(&none, "").unwrap();
    let launch = telling(([127, 0, 0, 1], 1).into(), service(&tenant), &tenant)
        .env("APP_SERVICE__WEBHOOK_URL", "https://127.0.0.1:1/hook")
        .env("SSL_CERT_FILE", &none);
    let exited = launch.run();
    std::fs::remove_file(none).unwrap();
    assert_eq!(exited.code, Some(78), "{} {}", exited.stdout, exited.stderr);
    assert!(exited.stderr.contains("SSL_CERT_FILE"), "{}", exited.stderr);
}
