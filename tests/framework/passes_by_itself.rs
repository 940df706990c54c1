//! Faults that pass by themselves: a start and a reload wait for their end, and say so once.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder,
        launch_options::LaunchOptions,
        log_events::{events_of_level, events_that_say},
        reload_status::{assert_kept, wait_for_generation},
        stand_in::StandIn,
        temporary_file::TemporaryFile,
        time_waits::stays,
    },
};
use devstack::{DEFAULT_TIMEOUT, Launch, RunningService, Signal, Tenant, TestProcess, Validity, free_port};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

/// Starts the service, and waits until it logs that it waits for something.
async fn start_that_waits(launch: Launch, waits: &str) -> TestProcess {
    let mut process = launch.start();
    process.wait_for_line(|line| line.contains(waits), DEFAULT_TIMEOUT).await;
    process
}

/// Checks that the process logged once that it waits, and that it serves now.
async fn assert_serves(mut process: TestProcess, waits: &str) {
    process.listening().await;
    assert_eq!(process.output().matches(waits).count(), 1, "{}", process.output());
}

/// Starts the service with a folder of its own, and moves its `default.toml` away.
async fn start_and_move_away<'a>(folder: &ConfigurationFolder, tenant: &'a Tenant) -> RunningService<'a> {
    let running = RunningService::start(folder.launch(tenant), tenant).await;
    fs::rename(folder.path().join("default.toml"), folder.path().join("away")).expect("it is there");
    running
}

#[tokio::test]
async fn a_configuration_that_is_gone_at_a_signal_is_taken_up_when_it_is_back() {
    let tenant = SERVICE.migrated("gone").await;
    let folder = ConfigurationFolder::new();
    let mut running = start_and_move_away(&folder, &tenant).await;
    let reload = running.reload().await;
    assert_kept(&reload, 78);
    assert!(reload["error"].as_str().is_some_and(|error| error.contains("default.toml")), "{reload}");

    folder.write("[database]\nmax_connections = 3\n");
    let status = wait_for_generation(&running, 2).await;
    let last = &status["last_reload"];
    assert_eq!((&last["trigger"], &last["outcome"]), (&"retry".into(), &"published".into()), "{last}");
    assert_eq!(events_of_level(&running.process, "ERROR").len(), 1, "{}", running.process.output());
}

#[tokio::test]
async fn a_configuration_that_is_back_unchanged_ends_the_retries() {
    let tenant = SERVICE.migrated("back").await;
    let folder = ConfigurationFolder::new();
    let mut running = start_and_move_away(&folder, &tenant).await;
    assert_kept(&running.reload().await, 78);
    fs::rename(folder.path().join("away"), folder.path().join("default.toml")).expect("it is there");
    running.wait_until("a reload", |status| status["last_reload"]["outcome"] == "unchanged").await;

    // Nobody takes up a file that was written later, without a signal. The first two pauses are 3 s at most.
    folder.write("[database]\nmax_connections = 3\n");
    let is_first = async || running.status().await["generation"] == 1;
    stays("the first generation", Duration::from_secs(4), is_first).await;
    assert_eq!(running.reload().await["outcome"], "published");
}

#[tokio::test]
async fn a_configuration_that_is_half_written_at_a_signal_is_taken_up_when_it_is_whole() {
    let tenant = SERVICE.migrated("half_written").await;
    let folder = ConfigurationFolder::new();
    let mut running = RunningService::start(folder.launch(&tenant), &tenant).await;
    folder.write("[database]\nmax_connecti");
    assert_kept(&running.reload().await, 78);
    folder.write("[database]\nmax_connections = 3\n");
    wait_for_generation(&running, 2).await;
}

#[tokio::test]
async fn a_mistake_in_the_configuration_waits_for_a_signal() {
    let tenant = SERVICE.migrated("mistake").await;
    let folder = ConfigurationFolder::new();
    let mut running = start_and_move_away(&folder, &tenant).await;
    assert_kept(&running.reload().await, 78);
    // It can be read again, but has a mistake: nothing else is read by itself.
    folder.write("[database]\nmax_connections = \"many\"\n");
    let reads = |status: &serde_json::Value| status["last_reload"]["error"].to_string().contains("max_connections");
    running.wait_until("the mistake", reads).await;
    folder.write("[database]\nmax_connections = 3\n");
    assert_eq!(running.status().await["generation"], 1);
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(events_of_level(&running.process, "ERROR").len(), 2, "{}", running.process.output());
}

#[tokio::test]
async fn a_start_waits_for_its_configuration() {
    let tenant = SERVICE.migrated("config_later").await;
    let folder = ConfigurationFolder::new();
    fs::remove_file(folder.path().join("default.toml")).expect("it is there");
    let waits = "the configuration cannot be read; trying";
    let process = start_that_waits(folder.launch(&tenant), waits).await;
    folder.write("");
    assert_serves(process, waits).await;
}

#[tokio::test]
async fn a_start_waits_for_its_authorities() {
    let tenant = SERVICE.migrated("authorities_later").await;
    for variable in ["SSL_CERT_FILE", "AWS_CA_BUNDLE"] {
        let file = TemporaryFile::absent();
        let waits = "the secrets manager cannot be set up; trying";
        let process = start_that_waits(SERVICE.launch(&tenant).env(variable, file.path()), waits).await;
        file.write(tenant.authority().certificate());
        assert_serves(process, waits).await;
    }
}

#[tokio::test]
async fn a_start_waits_for_the_manager_and_for_the_database() {
    let tenant = SERVICE.migrated("sides_later").await;
    let emulator: SocketAddr = tenant.emulator().endpoint.trim_start_matches("http://").parse().expect("an address");
    let database = tenant.database();
    let port = free_port();
    let manager = SERVICE.launch(&tenant).env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"));
    let waits = "a secret could not be fetched; this start tries";
    let process = start_that_waits(manager, waits).await;
    let _relay = StandIn::relay(port, emulator).await;
    assert_serves(process, waits).await;

    let port = free_port();
    let launch = SERVICE.launch(&tenant).env("APP_DATABASE__HOST", "127.0.0.1");
    let waits = "the database cannot be reached; trying";
    let process = start_that_waits(launch.env("APP_DATABASE__PORT", port.to_string()), waits).await;
    let _relay = StandIn::relay(port, (database.host, database.port)).await;
    assert_serves(process, waits).await;
}

#[tokio::test]
async fn a_start_waits_for_its_port_until_the_predecessor_has_stopped() {
    let tenant = SERVICE.migrated("predecessor").await;
    let mut predecessor = RunningService::start(SERVICE.launch(&tenant), &tenant).await;
    let (public, admin) = (&predecessor.at.public, &predecessor.at.admin);
    let launch = SERVICE.launch(&tenant).env("APP_SERVER__LISTEN", public).env("APP_ADMIN__LISTEN", admin);
    let waits = "an address cannot be bound; trying";
    let process = start_that_waits(launch, waits).await;
    predecessor.process.signal(Signal::TERM);
    assert_serves(process, waits).await;
}

#[tokio::test]
async fn a_start_that_waits_for_its_port_can_be_stopped() {
    let tenant = SERVICE.migrated("stopped_waiting").await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let launch = SERVICE.launch(&tenant).env("APP_SERVER__LISTEN", address);
    let mut process = start_that_waits(launch, "an address cannot be bound").await;
    process.signal(Signal::TERM);
    assert_eq!(process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_reload_without_descriptors_is_made_up_for() {
    let tenant = SERVICE.migrated("descriptors").await;
    let folder = ConfigurationFolder::new();
    let mut running = RunningService::start(folder.launch(&tenant), &tenant).await;
    running.create_note("a note").await;
    folder.write("[database]\nmax_connections = 3\n");
    let pid = Pid::from_raw(running.process.pid().cast_signed());
    let none_left = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, none_left).expect("it is our child");
    running.process.signal(Signal::HUP);
    running.process.wait_for_line(|line| line.contains("Too many open files"), DEFAULT_TIMEOUT).await;
    prlimit(pid, Resource::Nofile, before).expect("it is our child");
    wait_for_generation(&running, 2).await;
    assert_eq!(events_that_say(&running.process, "the reload failed").len(), 1);
}

/// A clock that is behind makes a good certificate one that is not valid yet.
#[tokio::test]
async fn a_start_waits_for_a_certificate_that_is_not_valid_yet() {
    const WAITS: &str = "something is not available yet; trying until secrets.deadline";
    let tenant = SERVICE.migrated("too_early").await;
    tenant.put_identity("server_tls", &tenant.authority().local(Validity::not_yet())).await.unwrap();
    let launch = || SERVICE.launch(&tenant).env("APP_SERVER__TLS", "true");
    let process = start_that_waits(launch(), WAITS).await;
    tenant.put_identity("server_tls", &tenant.authority().local(Validity::days(90))).await.unwrap();
    assert_serves(process, WAITS).await;

    tenant.put_identity("server_tls", &tenant.authority().local(Validity::not_yet())).await.unwrap();
    let exited = launch().with_short_deadline().start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(69), "{}", exited.stderr);
    assert!(exited.stderr.contains("set the clock (NTP)"), "{}", exited.stderr);
}
