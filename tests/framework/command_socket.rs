//! The commands `health` and `reload` prove which process they act on.

use crate::{
    SERVICE,
    support::{configuration_folder::ConfigurationFolder, launch_options::LaunchOptions, secrets::scripted_manager},
};
use devstack::{
    Authority, DEFAULT_TIMEOUT, ExitedProcess, FaultRule, Launch, RunningService, ScriptedFault, Signal, TestProcess,
    Validity, free_port,
};
use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The answer of a program that is not the service: it says what a probe would like to hear.
const FORGED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";

/// A process that has nothing to do with the service. SIGHUP would end it.
struct Innocent(Child);

impl Innocent {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("a process"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    #[track_caller]
    fn assert_alive(&mut self) {
        assert_eq!(self.0.try_wait().expect("our child"), None);
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prepares a command for the service whose admin listener is at `admin`.
fn command(launch: Launch, admin: &str, arguments: &[&str]) -> Launch {
    launch.args(arguments.iter().copied()).env("APP_ADMIN__LISTEN", admin)
}

/// Waits for the end of a command, without blocking the runtime.
async fn ended(launch: Launch) -> ExitedProcess {
    launch.start().exited(DEFAULT_TIMEOUT).await
}

/// Returns `true` if this test may make a PID namespace. It needs root.
fn may_unshare() -> bool {
    let unshared = Command::new("unshare").args(["--pid", "--fork", "true"]).stderr(Stdio::null()).status();
    unshared.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn reload_signals_no_process_but_the_one_that_listens() {
    let tenant = SERVICE.migrated("innocent").await;
    let running = SERVICE.start(&tenant).await;
    let mut innocent = Innocent::start();
    let pid = innocent.pid();
    for arguments in [vec!["reload", "--pid", &pid], vec!["reload", "--wait", "--pid", &pid]] {
        let refused = ended(command(SERVICE.launch(&tenant), &running.at.admin, &arguments)).await;
        assert_eq!(refused.code, Some(64), "{}", refused.stderr);
        assert!(refused.stderr.contains(&running.process.pid().to_string()), "{}", refused.stderr);
    }
    innocent.assert_alive();
    assert_eq!(running.status().await["signals"]["seen"], 0);
}

/// A sidecar shares the network, but not the processes. There, the number of the service's process belongs to another
/// one. A machine that may make no PID namespace does not check it.
#[tokio::test]
async fn reload_from_another_pid_namespace_signals_nobody() {
    if !may_unshare() {
        println!("no PID namespace can be made here");
        return;
    }
    let tenant = SERVICE.migrated("sidecar").await;
    // In each namespace, the shell is process 1, and the next one is process 2.
    let as_process_2 = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "\"$0\" \"$@\"; exit $?"];
    let service = SERVICE.launch(&tenant).started_by(as_process_2);
    let mut process = service.start();
    let at = process.listening().await;

    let beside_innocent = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c"];
    let script = "sleep 600 & \"$0\" \"$@\"; code=$?; kill -0 $! && echo \"process $! lives\"; exit $code";
    for arguments in [vec!["reload"], vec!["reload", "--wait"], vec!["reload", "--pid", "2"]] {
        let launch = command(SERVICE.launch(&tenant), &at.admin, &arguments);
        let refused = ended(launch.started_by([&beside_innocent[..], &[script]].concat())).await;
        assert_eq!(refused.code, Some(69), "{}", refused.stderr);
        assert!(refused.stdout.contains("process 2 lives"), "{}", refused.stdout);
        assert!(refused.stderr.contains("shareProcessNamespace"), "{}", refused.stderr);
    }
    let health = command(SERVICE.launch(&tenant), &at.admin, &["health"]);
    let health = ended(health.started_by([&beside_innocent[..], &[script]].concat())).await;
    assert_eq!(health.code, Some(0), "{}", health.stderr);

    // From the host, the kernel gives the service's number on the host.
    let reload = ended(command(SERVICE.launch(&tenant), &at.admin, &["reload", "--wait"])).await;
    assert_eq!(reload.code, Some(0), "{}", reload.stderr);
}

#[tokio::test]
async fn health_and_reload_need_no_trust_in_the_certificate_of_the_admin_listener() {
    let tenant = SERVICE.migrated("foreign").await;
    let foreign = Authority::new("foreign").issue(&["somewhere.example"], Validity::days(9));
    tenant.put_identity("server_tls", &foreign).await.unwrap();
    let mut process = SERVICE.launch(&tenant).env("APP_ADMIN__TLS", "true").start();
    let at = process.listening().await;
    // A change of admin.tls that is not in effect yet makes no difference.
    for tls in ["true", "false"] {
        for arguments in [vec!["health"], vec!["health", "live"], vec!["reload"], vec!["reload", "--wait"]] {
            let launch = command(SERVICE.launch(&tenant), &at.admin, &arguments).env("APP_ADMIN__TLS", tls);
            let exited = ended(launch).await;
            assert_eq!(exited.code, Some(0), "{arguments:?}: {}", exited.stderr);
        }
    }
}

#[tokio::test]
async fn health_does_not_believe_another_program_at_the_admin_address() {
    let tenant = SERVICE.tenant("forged").await;
    let forger = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = forger.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for connection in forger.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 1024]);
            let _ = connection.write_all(FORGED);
        }
    });
    for arguments in [["health", "live"], ["health", "ready"], ["reload", "--wait"]] {
        let refused = ended(command(SERVICE.launch(&tenant), &admin, &arguments)).await;
        assert_eq!(refused.code, Some(69), "{arguments:?}: {}", refused.stdout);
        assert!(refused.stderr.contains("nobody listens there"), "{}", refused.stderr);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_socket_that_is_taken_ends_a_start_with_71() {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    };
    let tenant = SERVICE.migrated("taken").await;
    let admin = format!("127.0.0.1:{}", free_port());
    let name = format!("vestibule-{}@{admin}", env!("CARGO_PKG_NAME"));
    let _taken = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let refused = ended(command(SERVICE.launch(&tenant), &admin, &["serve"])).await;
    assert_eq!(refused.code, Some(71), "{}", refused.stderr);
    assert!(refused.stderr.contains(&name), "{}", refused.stderr);
}

/// As root, a test can be other users.
#[tokio::test]
async fn a_command_of_another_user_is_refused() {
    let own = Command::new("id").arg("-u").output().expect("a number").stdout;
    if own.trim_ascii() != b"0" {
        println!("only root can start processes of other users");
        return;
    }
    let tenant = SERVICE.migrated("users").await;
    // The other users may not be able to read the folder of this repository.
    let folder = ConfigurationFolder::new();
    let user = |id: &str| ["setpriv", &format!("--reuid={id}"), "--clear-groups"].map(String::from);
    let mut process = folder.launch(&tenant).started_by(user("65533")).start();
    let at = process.listening().await;
    for (id, health, reload) in [("65532", 77, 77), ("65533", 0, 0), ("0", 0, 0)] {
        for (arguments, code) in [(["health", "live"], health), (["reload", "--wait"], reload)] {
            let exited = ended(command(folder.launch(&tenant), &at.admin, &arguments).started_by(user(id))).await;
            assert_eq!(exited.code, Some(code), "{arguments:?} of user {id}: {}", exited.stderr);
        }
    }
}

#[tokio::test]
async fn no_command_waits_for_a_process_that_hangs() {
    let tenant = SERVICE.migrated("hangs").await;
    let mut running = SERVICE.start(&tenant).await;
    running.process.signal(Signal::STOP);
    let started = Instant::now();
    for arguments in [["health", "live"], ["reload", "--wait"]] {
        let exited = ended(command(SERVICE.launch(&tenant), &running.at.admin, &arguments)).await;
        assert_eq!(exited.code, Some(69), "{}", exited.stderr);
        assert!(exited.stderr.contains("timeout after 3 s"), "{}", exited.stderr);
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    running.process.signal(Signal::CONT);
}

#[tokio::test]
async fn reload_waits_no_longer_than_two_reloads_may_take_or_the_process_lives() {
    let tenant = SERVICE.migrated("waits").await;
    let manager = scripted_manager(&tenant).await;
    // A command keeps its connection for as long as it waits.
    let launch = SERVICE.launch(&tenant).with_manager(&manager).env("APP_CONNECTIONS__MAX_AGE", "1s");
    let mut running = RunningService::start(launch, &tenant).await;
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Delay(Duration::from_secs(60)))]);
    let reload = |deadline: &str| -> TestProcess {
        let launch = command(SERVICE.launch(&tenant), &running.at.admin, &["reload", "--wait"]);
        launch.env("APP_SECRETS__DEADLINE", deadline).start()
    };
    let limited = reload("1s").exited(DEFAULT_TIMEOUT).await;
    assert_eq!(limited.code, Some(75), "{}", limited.stderr);
    let waiting = reload("30s");
    running.wait_until("the second signal", |status| status["signals"]["seen"] == 2).await;
    running.process.signal(Signal::KILL);
    let orphaned = waiting.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(orphaned.code, Some(69), "{}", orphaned.stderr);
    assert!(orphaned.stderr.contains("the process ended"), "{}", orphaned.stderr);
}
