//! A rotation that reaches several replicas: `reload --fleet`, and names with several addresses.

use crate::{
    SERVICE,
    support::{
        launch_options::LaunchOptions, log_events::events_that_say, secrets::scripted_manager,
        slow_request::SlowRequest, temporary_file::TemporaryFile,
    },
};
use devstack::{
    DEFAULT_TIMEOUT, ExitedProcess, FaultRule, Launch, RunningService, ScriptedFault, Signal, Tenant, free_port,
    random_key,
    reqwest::{Client, Response, StatusCode},
};
use serde_json::{Value, json};
use std::{
    net::ToSocketAddrs,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Prepares a replica that takes signed requests for a reload.
fn replica(tenant: &Tenant) -> Launch {
    SERVICE.launch(tenant).env("APP_ADMIN__RELOAD", "signed").env("APP_SERVER__REQUEST_TIMEOUT", "60s")
}

/// Starts a replica at each of these addresses of this machine.
async fn start_replicas<'a>(tenant: &'a Tenant, hosts: &[&str]) -> Vec<RunningService<'a>> {
    let mut replicas = Vec::new();
    for host in hosts {
        let launch = replica(tenant).env("APP_ADMIN__LISTEN", format!("{host}:0"));
        replicas.push(RunningService::start(launch, tenant).await);
    }
    replicas
}

/// Prepares `reload --fleet` for these targets, with further arguments.
fn reload_fleet(tenant: &Tenant, arguments: &[&str]) -> Launch {
    SERVICE.launch(tenant).args(["reload", "--fleet"]).args(arguments.iter().copied())
}

/// Runs `reload --fleet` for these replicas, with further arguments.
async fn reload_all(tenant: &Tenant, replicas: &[RunningService<'_>], arguments: &[&str]) -> ExitedProcess {
    let urls = replicas.iter().map(|replica| replica.at.admin.as_str());
    let arguments: Vec<&str> = urls.chain(arguments.iter().copied()).collect();
    reload_fleet(tenant, &arguments).start().exited(DEFAULT_TIMEOUT).await
}

/// Returns the trigger and the outcome of the last reload of each replica.
async fn last_reloads(replicas: &[RunningService<'_>]) -> Vec<Value> {
    let mut reloads = Vec::new();
    for replica in replicas {
        let last = replica.status().await["last_reload"].clone();
        reloads.push(if last.is_null() { last } else { json!([last["trigger"], last["outcome"]]) });
    }
    reloads
}

fn requests(outcome: &str) -> String {
    format!("vestibule_reload_requests_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test]
async fn a_rotation_reaches_each_replica_in_waves_and_ends_with_the_audit() {
    let tenant = SERVICE.migrated("fleet").await;
    let replicas = start_replicas(&tenant, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    tenant.rotate("database").await.unwrap();
    let reloaded = reload_all(&tenant, &replicas, &[]).await;
    assert_eq!(reloaded.code, Some(0), "{}\n{}", reloaded.stdout, reloaded.stderr);
    assert_eq!(last_reloads(&replicas).await, vec![json!(["fleet", "published"]); 3]);
    let at: Vec<_> = replicas.iter().map(|replica| format!("http://{}", replica.at.admin)).collect();
    let lines: Vec<_> = reloaded.stdout.lines().collect();
    assert_eq!(lines[0], format!("wave 1 of 2: {}", at[0]));
    assert_eq!(lines[1], format!("{}: published: generation 2 is in service", at[0]), "the first wave ends first");
    assert_eq!(lines[2], format!("wave 2 of 2: {}, {}", at[1], at[2]));
    assert!(lines[5].starts_with("REPLICA"), "{}", reloaded.stdout);
    assert!(lines.last().unwrap().starts_with("3 of 3 replicas hold the current version"), "{}", reloaded.stdout);
    let series = "vestibule_reloads_total{trigger=\"fleet\",outcome=\"published\"}";
    assert_eq!((replicas[2].metric(series).await, replicas[2].metric(&requests("accepted")).await), (1.0, 1.0));
    let requested = events_that_say(&replicas[0].process, "a reload was requested on the admin listener");
    let key = replicas[0].credential("signing").await["version"].clone();
    assert_eq!((requested.len(), &requested[0]["fields"]["key.version"]), (1, &key));
    assert!(requested[0]["fields"]["client.address"].as_str().unwrap().starts_with("127.0.0."), "{requested:?}");

    let again = reload_all(&tenant, &replicas, &["--wave", "100%", "--expect", "3"]).await;
    assert_eq!(again.code, Some(0), "{}\n{}", again.stdout, again.stderr);
    assert_eq!(again.stdout.matches(": unchanged: generation 2 is in service").count(), 3, "{}", again.stdout);
}

#[tokio::test]
async fn without_the_audit_a_request_that_still_runs_is_no_bad_outcome() {
    let tenant = SERVICE.migrated("fleet_no_audit").await;
    let replicas = start_replicas(&tenant, &["127.0.0.1"]).await;
    let slow = SlowRequest::start(&replicas[0]).await;
    tenant.rotate("database").await.unwrap();
    let audited = reload_all(&tenant, &replicas, &[]).await;
    assert_eq!(audited.code, Some(69), "{}", audited.stdout);
    assert!(audited.stderr.contains("draining: "), "{}", audited.stderr);
    tenant.rotate("database").await.unwrap();
    let reloaded = reload_all(&tenant, &replicas, &["--no-audit"]).await;
    assert_eq!(reloaded.code, Some(0), "{}\n{}", reloaded.stdout, reloaded.stderr);
    assert!(reloaded.stdout.trim_end().ends_with(": published: generation 3 is in service"), "{}", reloaded.stdout);
    assert_eq!(slow.finish().await, StatusCode::CREATED);
}

#[tokio::test]
async fn the_first_bad_outcome_stops_the_waves() {
    let tenant = SERVICE.migrated("fleet_stops").await;
    let manager = scripted_manager(&tenant).await;
    let mut replicas = start_replicas(&tenant, &["127.0.0.1"]).await;
    let silent = replica(&tenant).with_manager(&manager).with_short_deadline();
    replicas.push(RunningService::start(silent, &tenant).await);
    replicas.extend(start_replicas(&tenant, &["127.0.0.1"]).await);
    tenant.rotate("database").await.unwrap();
    manager.script([FaultRule::all(ScriptedFault::Status(500, "InternalServiceError"))]);
    let stopped = reload_all(&tenant, &replicas, &["--wave", "1"]).await;
    assert_eq!(stopped.code, Some(69), "{}\n{}", stopped.stdout, stopped.stderr);
    let [one, two, three] = [0, 1, 2].map(|index: usize| format!("http://{}", replicas[index].at.admin));
    let summary = format!("it stopped in wave 2 of 3; reloaded: {one}; failed: {two}; not asked: {three}");
    assert!(stopped.stderr.contains(&summary), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("generation 1 stays in service"), "{}", stopped.stderr);
    assert!(!stopped.stdout.contains("REPLICA"), "no audit: {}", stopped.stdout);
    assert_eq!(replicas[1].status().await["last_reload"]["outcome"], "kept");
    assert_eq!(last_reloads(&replicas[2..]).await, [json!(null)]);

    manager.script([]);
    let done = reload_all(&tenant, &replicas, &[]).await;
    assert_eq!(done.code, Some(0), "{}\n{}", done.stdout, done.stderr);

    tenant.put("database", "{\"username\": \"sentinel-of-the-fleet\"}").await.unwrap();
    let malformed = reload_all(&tenant, &replicas, &[]).await;
    assert_eq!(malformed.code, Some(65), "{}\n{}", malformed.stdout, malformed.stderr);
    let summary = format!("it stopped in wave 1 of 2; reloaded: none; failed: {one}; not asked: {two}, {three}");
    assert!(malformed.stderr.contains(&summary), "{}", malformed.stderr);
    let output = [malformed.stdout, malformed.stderr].concat();
    assert!(!output.contains("sentinel-of-the-fleet"), "{output}");
}

#[tokio::test]
async fn nothing_is_reloaded_if_a_replica_is_missing() {
    let tenant = SERVICE.migrated("fleet_missing").await;
    let replicas = start_replicas(&tenant, &["127.0.0.1"]).await;
    let nobody = format!("127.0.0.1:{}", free_port());
    let unreachable = reload_all(&tenant, &replicas, &[&nobody]).await;
    assert_eq!(unreachable.code, Some(69), "{}", unreachable.stderr);
    assert!(unreachable.stderr.contains(&format!("http://{nobody}")), "{}", unreachable.stderr);
    let twice = reload_all(&tenant, &replicas, &[&replicas[0].at.admin]).await;
    assert_eq!(twice.code, Some(69), "{}", twice.stderr);
    for failed in [unreachable, twice] {
        assert!(failed.stderr.contains("no replica was reloaded"), "{}", failed.stderr);
    }
    assert_eq!(last_reloads(&replicas).await, [json!(null)]);
    // One process at two addresses is reloaded once.
    let once = reload_all(&tenant, &replicas, &[&replicas[0].at.admin, "--expect", "1"]).await;
    assert_eq!(once.code, Some(0), "{}\n{}", once.stdout, once.stderr);
    assert!(once.stdout.contains("is the same replica as") && once.stdout.contains("wave 1 of 1"), "{}", once.stdout);
    assert_eq!(replicas[0].metric(&requests("accepted")).await, 1.0);
}

#[tokio::test]
async fn a_rotation_of_the_signing_key_reaches_replicas_that_hold_the_old_one() {
    let tenant = SERVICE.migrated("fleet_key").await;
    let replicas = start_replicas(&tenant, &["127.0.0.1", "127.0.0.1"]).await;
    let old = replicas[0].credential("signing").await["version"].clone();
    tenant.put("signing", &random_key()).await.unwrap();
    let rotated = reload_all(&tenant, &replicas, &[]).await;
    assert_eq!(rotated.code, Some(0), "{}\n{}", rotated.stdout, rotated.stderr);
    assert_ne!(replicas[1].credential("signing").await["version"], old);
    assert_eq!(last_reloads(&replicas).await, vec![json!(["fleet", "published"]); 2]);
    // There is nothing to compare, so it does not wait for answers.
    let unchanged = reload_all(&tenant, &replicas, &["--settle", "1h"]).await;
    assert_eq!(unchanged.code, Some(0), "{}\n{}", unchanged.stdout, unchanged.stderr);
}

#[tokio::test]
async fn a_comparison_goes_on_with_the_generation_that_has_replaced_the_new_one() {
    let tenant = SERVICE.migrated("fleet_replaced").await;
    let mut replicas = start_replicas(&tenant, &["127.0.0.1", "127.0.0.1"]).await;
    tenant.rotate("database").await.unwrap();
    let urls = replicas.iter().map(|replica| replica.at.admin.as_str());
    let arguments: Vec<&str> = urls.chain(["--settle", "1h"]).collect();
    let mut running = reload_fleet(&tenant, &arguments).start();
    running.wait_for_line(|line| line.contains("published: generation 2"), DEFAULT_TIMEOUT).await;
    let client = Client::new();
    for generation in [2, 3] {
        if generation == 3 {
            tenant.rotate("database").await.unwrap();
            replicas[0].process.signal(Signal::HUP);
        }
        replicas[0].wait_until("the generation", |status| status["generation"] == generation).await;
        for _ in 0..20 {
            let answer = client.get(replicas[0].url("/v1/notes")).send().await.expect("an answer");
            assert!(answer.status().is_success(), "{}", answer.status());
        }
    }
    running.wait_for_line(|line| line.contains("wave 2 of 2"), DEFAULT_TIMEOUT).await;
    running.signal(Signal::INT);
    let ended = running.exited(DEFAULT_TIMEOUT).await;
    let address = format!("http://{}: ", replicas[0].at.admin);
    let is_compared = |line: &str| line.starts_with(&address) && line.contains(": generation 3: ");
    assert!(ended.stdout.lines().any(is_compared), "{}", ended.stdout);
}

#[tokio::test]
async fn a_signal_ends_the_command_between_two_waves() {
    let tenant = SERVICE.migrated("fleet_signal").await;
    let replicas = start_replicas(&tenant, &["127.0.0.1", "127.0.0.1"]).await;
    tenant.rotate("database").await.unwrap();
    let urls = replicas.iter().map(|replica| replica.at.admin.as_str());
    let arguments: Vec<&str> = urls.chain(["--settle", "1h"]).collect();
    let mut running = reload_fleet(&tenant, &arguments).start();
    // Nobody sends requests, so it waits for answers to compare.
    running.wait_for_line(|line| line.contains("published: generation 2"), DEFAULT_TIMEOUT).await;
    running.signal(Signal::INT);
    let ended = running.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(ended.code, Some(69), "{}\n{}", ended.stdout, ended.stderr);
    let summary = format!(
        "a signal stopped the command before wave 2 of 2; reloaded: http://{}; failed: none; not asked: http://{}",
        replicas[0].at.admin, replicas[1].at.admin
    );
    assert!(ended.stderr.contains(&summary), "{}", ended.stderr);
    assert!(ended.stdout.contains("too early to compare"), "{}", ended.stdout);
    assert_eq!(last_reloads(&replicas).await, [json!(["fleet", "published"]), json!(null)]);
}

/// A proxy in front of an admin listener, which keeps what is sent there.
struct Listening {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    _accepting: JoinSet<()>,
}

impl Listening {
    async fn before(admin: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, admin) = (listener.local_addr().expect("an address").to_string(), admin.to_owned());
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut accepting = JoinSet::new();
        let kept = heads.clone();
        accepting.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && client.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                kept.lock().expect("nobody panics with it").push(String::from_utf8_lossy(&head).into_owned());
                let Ok(mut service) = TcpStream::connect(&admin).await else { return };
                tokio::spawn(async move {
                    let _ = service.write_all(&head).await;
                    copy_bidirectional(&mut client, &mut service).await
                });
            }
        });
        Self { address, heads, _accepting: accepting }
    }

    /// Returns the `Authorization` of the request for a reload that came.
    fn authorization(&self) -> String {
        let heads = self.heads.lock().expect("nobody panics with it");
        let post = heads.iter().find(|head| head.starts_with("POST /reload ")).expect("a request for a reload");
        let line = post.lines().find_map(|line| line.strip_prefix("authorization: "));
        line.expect("it is signed").to_owned()
    }
}

/// Asks for a reload as anybody can.
async fn post_reload(replica: &RunningService<'_>, authorization: Option<&str>) -> Response {
    let mut request = Client::new().post(format!("http://{}/reload", replica.at.admin));
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.send().await.expect("an answer")
}

/// Returns the status and the detail of a problem.
async fn problem(answer: Response) -> (StatusCode, String) {
    let (status, content_type) = (answer.status(), answer.headers()["content-type"].clone());
    assert_eq!(content_type, "application/problem+json");
    let body: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
    (status, body["detail"].as_str().expect("a detail").to_owned())
}

#[tokio::test]
async fn a_request_that_is_not_allowed_is_refused_with_the_reason() {
    let (tenant, other) = (SERVICE.migrated("fleet_refused").await, SERVICE.migrated("fleet_other").await);
    let replicas = start_replicas(&tenant, &["127.0.0.1", "127.0.0.1"]).await;
    let listening = Listening::before(&replicas[0].at.admin).await;
    let reloaded = reload_fleet(&tenant, &[&listening.address]).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(reloaded.code, Some(0), "{}\n{}", reloaded.stdout, reloaded.stderr);
    let used = listening.authorization();
    tenant.leak_detector().remember("reload token", used.split(' ').nth(1).expect("a token"));

    let without_signature = &used[..used.rfind('.').unwrap() + 1];
    for (replica, authorization, status, text, outcome) in [
        (0, Some(&*used), StatusCode::FORBIDDEN, "was used before", "replayed"),
        (1, Some(&*used), StatusCode::FORBIDDEN, "is for another process", "other_process"),
        (0, Some(without_signature), StatusCode::UNAUTHORIZED, "no signing key", "bad_signature"),
        (0, Some("Bearer x"), StatusCode::UNAUTHORIZED, "is not signed", "unsigned"),
    ] {
        let answer = post_reload(&replicas[replica], authorization).await;
        assert_eq!(answer.headers().contains_key("www-authenticate"), status == StatusCode::UNAUTHORIZED);
        let (refused, detail) = problem(answer).await;
        assert_eq!(refused, status, "{detail}");
        assert!(detail.contains(text), "{detail}");
        assert_eq!(replicas[replica].metric(&requests(outcome)).await, 1.0, "{outcome}");
    }
    let (status, _) = problem(post_reload(&replicas[0], None).await).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(last_reloads(&replicas).await, [json!(["fleet", "unchanged"]), json!(null)]);

    // The manager of another service has other keys.
    let foreign = reload_all(&other, &replicas[..1], &[]).await;
    assert_eq!(foreign.code, Some(77), "{}", foreign.stderr);
    assert!(foreign.stderr.contains("which the manager has at no stage"), "{}", foreign.stderr);
}

#[tokio::test]
async fn reloads_over_the_admin_listener_are_off_unless_the_configuration_allows_them() {
    let tenant = SERVICE.migrated("fleet_off").await;
    let replica = SERVICE.start(&tenant).await;
    let (status, detail) = problem(post_reload(&replica, None).await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(detail.contains("admin.reload is \"off\""), "{detail}");
    let off = reload_all(&tenant, &[replica], &[]).await;
    assert_eq!(off.code, Some(78), "{}", off.stderr);
    assert!(off.stderr.contains("admin.reload = \"signed\""), "{}", off.stderr);
    let wrong = SERVICE.launch(&tenant).args(["check"]).env("APP_ADMIN__RELOAD", "anybody").run();
    assert_eq!(wrong.code, Some(78), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("expected one of: off, signed"), "{}", wrong.stderr);
}

/// Asks for a reload this many times. Each request must be refused.
async fn ask_without_a_signature(client: Client, url: String, times: usize) {
    for _ in 0..times {
        let answer = client.post(&url).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_flood_of_requests_that_are_not_signed_keeps_no_reload_from_coming() {
    const FLOOD: usize = 2000;
    let tenant = SERVICE.migrated("fleet_flood").await;
    let replicas = start_replicas(&tenant, &["127.0.0.1"]).await;
    tenant.rotate("database").await.unwrap();
    let flood = async {
        let (client, url) = (Client::new(), format!("http://{}/reload", replicas[0].at.admin));
        let mut clients = JoinSet::new();
        for _ in 0..20 {
            clients.spawn(ask_without_a_signature(client.clone(), url.clone(), FLOOD / 20));
        }
        clients.join_all().await;
    };
    let ((), reloaded) = tokio::join!(flood, reload_all(&tenant, &replicas, &[]));
    assert_eq!(reloaded.code, Some(0), "{}\n{}", reloaded.stdout, reloaded.stderr);
    assert_eq!(last_reloads(&replicas).await, [json!(["fleet", "published"])]);
    assert_eq!(replicas[0].metric(&requests("unsigned")).await, FLOOD as f64);
    let warnings = events_that_say(&replicas[0].process, "a request for a reload is refused").len();
    assert!((1..FLOOD / 20).contains(&warnings), "{warnings} lines");
}

#[tokio::test]
async fn a_name_stands_for_each_of_its_addresses() {
    let tenant = SERVICE.migrated("fleet_name").await;
    let replicas = start_replicas(&tenant, &["127.0.0.1"]).await;
    let port = replicas[0].at.admin.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    // On some machines, localhost is ::1 too, where nobody listens.
    let is_alone = ("localhost", port).to_socket_addrs().unwrap().all(|address| address.is_ipv4());
    let name = format!("dns://localhost:{port}");
    let audited = SERVICE.launch(&tenant).args(["audit", &name]).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(audited.code, Some(if is_alone { 0 } else { 69 }), "{}", audited.stderr);
    assert!(audited.stdout.contains(&format!("http://127.0.0.1:{port} ")), "{}", audited.stdout);
    assert_eq!(audited.stdout.contains(&format!("http://[::1]:{port}")), !is_alone, "{}", audited.stdout);
    for (arguments, code, text) in [
        ([&name, "--expect", "2"], 69, "2 are expected"),
        (["dns://no-such-host.invalid:9090", "--expect", "2"], 69, "the name no-such-host.invalid"),
        (["dns://localhost", "--expect", "2"], 64, "dns://payments-admin:9090"),
    ] {
        let failed = SERVICE.launch(&tenant).args(["audit"]).args(arguments).start().exited(DEFAULT_TIMEOUT).await;
        assert_eq!(failed.code, Some(code), "{}", failed.stderr);
        assert!(!is_alone || failed.stderr.contains(text), "{}", failed.stderr);
    }
}

/// Returns `true` if this machine lets a test have a name with several addresses: a hosts file of its own.
fn may_have_hosts() -> bool {
    let mut unshared = Command::new("unshare");
    unshared.args(["--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"]).stderr(Stdio::null());
    unshared.status().is_ok_and(|status| status.success())
}

#[tokio::test]
async fn a_fleet_behind_one_name_is_reloaded_and_audited() {
    if !may_have_hosts() {
        println!("no mount namespace can be made here");
        return;
    }
    let tenant = SERVICE.migrated("fleet_hosts").await;
    let port = free_port();
    let (mut replicas, hosts) = (Vec::new(), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    for host in hosts {
        let launch = replica(&tenant).env("APP_ADMIN__LISTEN", format!("{host}:{port}"));
        replicas.push(RunningService::start(launch, &tenant).await);
    }
    let lines: String = hosts.iter().map(|host| format!("{host} fleet.test\n")).collect();
    let file = TemporaryFile::new(&lines);
    let path = file.path().display().to_string();
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let beside_hosts = |launch: Launch| launch.started_by(["unshare", "--mount", "sh", "-c", script, &path]);
    tenant.rotate("database").await.unwrap();
    let name = format!("dns://fleet.test:{port}");
    let reloaded = beside_hosts(reload_fleet(&tenant, &[&name])).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(reloaded.code, Some(0), "{}\n{}", reloaded.stdout, reloaded.stderr);
    assert!(reloaded.stdout.contains("3 of 3 replicas hold"), "{}", reloaded.stdout);
    assert_eq!(last_reloads(&replicas).await, vec![json!(["fleet", "published"]); 3]);
    drop(replicas.pop());
    let audited = beside_hosts(SERVICE.launch(&tenant).args(["audit", &name])).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(audited.code, Some(69), "{}", audited.stderr);
    assert!(audited.stderr.contains(&format!("unreachable: http://127.0.0.3:{port} (")), "{}", audited.stderr);
}
