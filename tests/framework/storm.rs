//! A storm: rotations of every credential, signals, and faults of the manager, the network and the database, all at once
//! and in random order.
//!
//! ```text
//! clients ─► service ─► proxy ─► database        each lane of faults ─► chronicle ◄─ each failed request
//!               └─► scripted manager                                        └─► does a fault explain it?
//! ```

mod chronicle;
mod clients;
mod lanes;

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder,
        database::{TableLock, wait_for_blocked_statements, wait_until_connections_are},
        launch_options::LaunchOptions,
        log_events::events_that_say,
        requests::begin_get,
        secrets::{current_version, scripted_manager},
        tcp_proxy::TcpProxy,
        time_waits::let_time_pass,
    },
    webhook_setup::{delivered_events, wait_for_outbox_rows},
};
use chronicle::Chronicle;
use clients::Clients;
use devstack::{
    DEFAULT_TIMEOUT, Launch, Receiver, RunningService, ScriptedManager, Tenant, eventually, eventually_within,
    reqwest::StatusCode,
};
use lanes::Lanes;
use std::{collections::BTreeSet, fs, time::Duration};

/// The length of the storm.
const DURATION: Duration = Duration::from_secs(120);

/// The number of clients. They pause between requests, so that other tests get their share of the machine.
const CLIENTS: usize = 8;

/// `database.max_connections`.
const MAX_CONNECTIONS: usize = 10;

/// The idle connections that the clients of the manager and of the webhook may keep: one per credential and per worker.
const IDLE_CLIENT_CONNECTIONS: usize = 5 + 4;

/// `database.acquire_timeout`. It is longer than each fault of the storm, and the pause before the next try.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(9);

/// `server.request_timeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);

/// The service in the storm, with everything around it that can fail.
struct Storm<'a> {
    tenant: &'a Tenant,
    running: RunningService<'a>,
    proxy: TcpProxy,
    manager: ScriptedManager,
    folder: ConfigurationFolder,
    receiver: Receiver,
    chronicle: Chronicle,
}

impl<'a> Storm<'a> {
    async fn prepare(tenant: &'a Tenant) -> Self {
        tenant.put_random("webhook", "api_key").await.expect("the manager stores it");
        tenant.put_random("server_tls", "tls_identity").await.expect("the manager stores it");
        let receiver = Receiver::start().expect("a receiver");
        receiver.accept_keys_of(tenant, "webhook");
        let (proxy, manager) = (TcpProxy::before(tenant).await, scripted_manager(tenant).await);
        let folder = ConfigurationFolder::new();
        folder.write(&configuration(&[]));
        let launch = proxy.launch(launch(tenant, &folder)).with_manager(&manager);
        let launch = launch.env("APP_SERVICE__WEBHOOK_URL", receiver.url());
        let running = RunningService::start_tls(launch, tenant).await;
        Self { tenant, running, proxy, manager, folder, receiver, chronicle: Chronicle::new() }
    }

    /// Returns the number of files that the process has open, when every connection to the database is open.
    async fn calm_files(&self, note: &str) -> usize {
        let lock = TableLock::on(self.tenant, "notes").await;
        let requests: Vec<_> = (0..MAX_CONNECTIONS).map(|_| begin_get(&self.running, note)).collect();
        wait_for_blocked_statements(self.tenant, MAX_CONNECTIONS).await;
        lock.release().await;
        for request in requests {
            assert_eq!(request.await.expect("an answer").status(), StatusCode::OK);
        }
        let_time_pass("sockets end a moment after those who used them", Duration::from_secs(2)).await;
        fs::read_dir(format!("/proc/{}/fd", self.running.process.pid())).expect("it runs").count()
    }

    /// Waits until an audit finds the current version of every credential in the service.
    async fn wait_for_audit(&self) {
        let audited = eventually("a complete audit", async || {
            let audit = launch(self.tenant, &self.folder).args(["audit", &self.running.at.admin]);
            let exited = audit.start().exited(DEFAULT_TIMEOUT).await;
            if exited.code == Some(0) { Ok(()) } else { Err(exited.stdout + &exited.stderr) }
        });
        audited.await;
    }
}

/// Prepares the service with all its credentials.
fn launch(tenant: &Tenant, folder: &ConfigurationFolder) -> Launch {
    folder
        .launch(tenant)
        .env_remove("APP_SECRETS__REFRESH_EVERY")
        .env("APP_SERVER__TLS", "true")
        .env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"))
}

/// Returns the configuration of the service, which revokes these versions. A transaction on a dead connection ends before
/// the statements that wait for its locks.
fn configuration(revoked: &[String]) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nrequest_timeout = \"{REQUEST_TIMEOUT:?}\"\n\
         [secrets]\nrefresh_every = \"7s\"\ndeadline = \"10s\"\nrevoked = {revoked:?}\n\
         [database]\nmax_connections = {MAX_CONNECTIONS}\nacquire_timeout = \"{ACQUIRE_TIMEOUT:?}\"\n\
         statement_timeout = \"5s\"\nidle_in_transaction_timeout = \"3s\"\n\
         [service]\nwebhook_timeout = \"2s\"\n"
    )
}

/// Returns the seed of this run: 1, or that of the variable `STORM_SEED`.
#[expect(clippy::disallowed_methods, reason = "it is a variable of the test, and not of the service")]
fn seed() -> u64 {
    match std::env::var("STORM_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => 1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_fails_no_request_that_its_faults_do_not_explain() {
    let seed = seed();
    println!("STORM_SEED={seed}");
    let tenant = SERVICE.migrated("storm").await;
    let mut storm = Storm::prepare(&tenant).await;
    let note = storm.running.create_note("a note").await;
    storm.running.create_note("another note").await;

    let before_the_storm = storm.calm_files(&note).await;

    let clients = Clients::start(&storm, CLIENTS);
    Lanes::new(&storm, seed).run(DURATION).await;
    let report = clients.stop().await;
    println!("{} requests were served, {} failed", report.served, report.failures.len());
    let unexplained = storm.chronicle.unexplained(&report.failures);
    if !unexplained.is_empty() {
        println!("{}", tenant.redact(&storm.running.process.output()));
        panic!("STORM_SEED={seed}\n{}", unexplained.join("\n"));
    }

    // Everything is mended, so one reload brings the rest.
    let cursor = storm.running.second_page().await;
    tenant.put("signing", &devstack::random_key()).await.expect("the manager stores it");
    let reload = storm.running.reload().await;
    assert_ne!(reload["outcome"], "kept", "STORM_SEED={seed} {reload:#}");
    storm.wait_for_audit().await;
    for credential in ["database", "signing", "webhook", "server_tls"] {
        let current = current_version(&tenant, credential).await;
        assert_eq!(storm.running.credential(credential).await["version"], current, "STORM_SEED={seed}");
    }
    assert_eq!(storm.running.get(&cursor).await.status(), StatusCode::OK, "STORM_SEED={seed}");

    eventually_within(Duration::from_secs(60), "the event of each note", async || {
        let told: BTreeSet<_> = delivered_events(&storm.receiver.deliveries()).into_iter().map(|(_, id)| id).collect();
        let missing = report.created.iter().filter(|id| !told.contains(*id)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} events are missing")) }
    })
    .await;
    wait_for_outbox_rows(&tenant, "true", 0).await;

    let afterwards = storm.calm_files(&note).await;
    println!("{before_the_storm} files before the storm, {afterwards} after it");
    assert!(
        afterwards <= before_the_storm + IDLE_CLIENT_CONNECTIONS,
        "{afterwards} files after {before_the_storm}, STORM_SEED={seed}"
    );
    wait_until_connections_are(&tenant, MAX_CONNECTIONS).await;
    storm.running.page("/metrics").await;
    storm.running.page("/status").await;
    assert_eq!(events_that_say(&storm.running.process, "panicked").len(), 0, "STORM_SEED={seed}");
}
