//! Keys before the door: how a start fails, and what stays shut until then.

use crate::{DEFAULT_TIMEOUT, Notes, RunningService, SHORT, free_port, migrated, scripted, service, tenant};
use devstack::{ExitedProcess, FaultRule, Launch, ScriptedFault, Signal, Tenant};
use serde_json::Value;
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

/// A start that fails with this code, reports this, and never listened.
async fn fails(launch: Launch, code: i32, says: &[&str]) -> ExitedProcess {
    let (public, admin) = (free_port(), free_port());
    let mut process = launch
        .env("APP_SERVER__LISTEN", format!("127.0.0.1:{public}"))
        .env("APP_ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
        .start();
    let start = Instant::now();
    while process.is_running() && start.elapsed() < DEFAULT_TIMEOUT {
        assert_shut(public);
        assert_shut(admin);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let exited = process.exited(DEFAULT_TIMEOUT).await;
    for part in says {
        assert!(exited.stderr.contains(part), "{part:?} is missing in:\n{}", exited.stderr);
    }
    assert_eq!(exited.code, Some(code), "{}", exited.stderr);
    assert_eq!(exited.stderr.matches(&format!("(exit code {code})")).count(), 1, "one report:\n{}", exited.stderr);
    let events: Vec<Value> = exited.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let told: Vec<_> = events.iter().filter(|event| event["fields"]["message"] == "the start failed").collect();
    assert_eq!(told.len(), 1, "one event:\n{}", exited.stdout);
    assert_eq!(told[0]["fields"]["exit_code"], code);
    exited
}

fn assert_shut(port: u16) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err(), "{port} is open");
}

fn quick(tenant: &Tenant) -> Launch {
    service(tenant).env("APP_SECRETS__DEADLINE", SHORT)
}

#[tokio::test]
async fn a_credential_that_does_not_exist_ends_with_66() {
    let tenant = migrated("absent").await;
    tenant.delete("signing").await.unwrap();
    fails(service(&tenant), 66, &["credential `signing`", &tenant.id("signing"), "create the secret"]).await;
    tenant.create_empty("signing").await.unwrap();
    fails(service(&tenant), 66, &["credential `signing`"]).await;
    tenant.put("signing", "x").await.unwrap();
    let deleting = tenant.client().delete_secret().secret_id(tenant.id("signing")).recovery_window_in_days(7);
    deleting.send().await.unwrap();
    fails(service(&tenant), 66, &["credential `signing`", "restore it"]).await;
}

#[tokio::test]
async fn a_malformed_credential_ends_with_65() {
    let tenant = migrated("malformed").await;
    let sentinel = "sentinel-malformed";
    let long = format!("{sentinel}{}", "x".repeat(65_530));
    let keys =
        [sentinel.to_owned(), "  \n".into(), format!("{{\"key\":\"{sentinel}\"}}"), format!("{{{sentinel}"), long];
    for value in keys {
        tenant.put("signing", &value).await.unwrap();
        fails(service(&tenant), 65, &["credential `signing`", &tenant.id("signing"), "malformed"]).await;
    }
    tenant.put_binary("signing", b"sentinel-\xff\x00binary").await.unwrap();
    fails(service(&tenant), 65, &["credential `signing`", "binary"]).await;
}

#[tokio::test]
async fn a_manager_that_denies_ends_with_77() {
    let tenant = migrated("denied").await;
    let manager = scripted(&tenant).await;
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Status(400, "AccessDeniedException"))]);
    let launch = service(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint());
    fails(launch, 77, &["credential `database`", "AccessDeniedException", "secretsmanager:GetSecretValue"]).await;
    assert_eq!(manager.requests(&tenant.id("database")), 1, "a denial is not tried again");
}

#[tokio::test]
async fn nobody_to_ask_as_ends_with_77() {
    let tenant = tenant("nobody").await;
    let launch = service(&tenant).env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    fails(launch.env("HOME", "/nonexistent"), 77, &["no identity"]).await;
}

#[tokio::test]
async fn static_keys_and_plain_http_are_left_out_in_production() {
    let tenant = migrated("production").await;
    let production = || service(&tenant).env("APP_PROFILE", "production");
    fails(production(), 78, &["AWS_ENDPOINT_URL", "no TLS", "allow_http_endpoint"]).await;
    let plain = || production().env("APP_SECRETS__AWS__ALLOW_HTTP_ENDPOINT", "true");
    fails(plain(), 77, &["no identity"]).await;
    let allowed = plain().env("APP_SECRETS__AWS__ALLOW_STATIC_KEYS", "true");
    RunningService::start(allowed, &tenant).await;
}

#[tokio::test]
async fn a_manager_that_is_down_is_tried_until_the_deadline_and_ends_with_69() {
    let tenant = tenant("down").await;
    let start = Instant::now();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let says = ["credential `database`", "credential `signing`", "the manager is unavailable"];
    fails(quick(&tenant).env("AWS_ENDPOINT_URL", nowhere), 69, &says).await;
    assert!(start.elapsed() < DEFAULT_TIMEOUT);
    for fault in [
        ScriptedFault::Status(400, "ThrottlingException"),
        ScriptedFault::Status(500, "InternalServiceError"),
        ScriptedFault::CutBody,
        ScriptedFault::Malformed,
    ] {
        let manager = scripted(&tenant).await;
        manager.script([FaultRule::all(fault.clone())]);
        fails(quick(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), 69, &says).await;
        assert!(manager.requests(&tenant.id("database")) > 1, "{fault:?} is tried again");
    }
}

#[tokio::test]
async fn a_manager_that_recovers_before_the_deadline_fails_no_start() {
    let tenant = migrated("recovers").await;
    let manager = scripted(&tenant).await;
    manager.script([
        FaultRule::all(ScriptedFault::Status(400, "ThrottlingException")).times(2),
        FaultRule::all(ScriptedFault::Status(500, "InternalServiceError")).times(2),
        FaultRule::all(ScriptedFault::CutBody).times(1),
    ]);
    RunningService::start(service(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
}

#[tokio::test]
async fn a_manager_that_never_answers_ends_with_75() {
    let tenant = tenant("hole").await;
    let manager = scripted(&tenant).await;
    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    fails(quick(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), 75, &["did not answer", "secrets.deadline"])
        .await;
}

#[tokio::test]
async fn a_wrong_password_ends_with_77() {
    let tenant = migrated("wrong").await;
    tenant.set_password(&tenant.app_role(), "sentinel-another").await.unwrap();
    fails(quick(&tenant), 77, &["credential `database`", "the login is refused"]).await;
    // A bare password, and what libpq would take instead of a credential.
    tenant.put("database", "sentinel-bare").await.unwrap();
    let bare = || quick(&tenant).env("APP_DATABASE__USERNAME", tenant.app_role());
    fails(bare().env("PGPASSWORD", "sentinel-another"), 77, &["the login is refused"]).await;
    tenant.put("database", "sentinel-another").await.unwrap();
    fails(service(&tenant), 78, &["database.username"]).await;
    let libpq = [("PGSSLMODE", "verify-full"), ("PGOPTIONS", "-c role=nobody"), ("PGSSLKEY", "/nonexistent")];
    let launch = libpq.into_iter().fold(bare(), |launch, (name, value)| launch.env(name, value));
    RunningService::start(launch, &tenant).await;
}

#[tokio::test]
async fn a_database_that_is_away_ends_with_69() {
    let tenant = migrated("away").await;
    let port = free_port().to_string();
    fails(quick(&tenant).env("APP_DATABASE__PORT", &port), 69, &["database at 127.0.0.1", &port]).await;
    fails(quick(&tenant).env("APP_DATABASE__NAME", "no_such_database"), 69, &["does not exist"]).await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    fails(quick(&tenant).env("APP_DATABASE__PORT", &port), 75, &["did not answer"]).await;
}

#[tokio::test]
async fn a_schema_behind_the_binary_ends_with_69_and_says_to_migrate() {
    let tenant = tenant("behind").await;
    fails(service(&tenant), 69, &["database schema", "migrate"]).await;
}

#[tokio::test]
async fn a_port_in_use_ends_with_71() {
    let tenant = migrated("port").await;
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [public, admin] = taken.each_ref().map(|taken| taken.local_addr().unwrap().to_string());
    let both = service(&tenant).env("APP_SERVER__LISTEN", &public).env("APP_ADMIN__LISTEN", &admin);
    let exited = both.start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(71));
    for part in ["server.listen", &public, "admin.listen", &admin, "in use"] {
        assert!(exited.stderr.contains(part), "{part} is missing in {}", exited.stderr);
    }
    // Where one can be bound, it does not listen either.
    let free = free_port();
    let one = service(&tenant).env("APP_SERVER__LISTEN", format!("127.0.0.1:{free}")).env("APP_ADMIN__LISTEN", &admin);
    let mut process = one.start();
    while process.is_running() {
        assert_shut(free);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(process.exited(DEFAULT_TIMEOUT).await.code, Some(71));
}

#[tokio::test]
async fn two_listeners_on_one_address_are_a_mistake() {
    let tenant = tenant("one_address").await;
    let address = format!("127.0.0.1:{}", free_port());
    let launch = service(&tenant).env("APP_SERVER__LISTEN", &address).env("APP_ADMIN__LISTEN", &address);
    let exited = launch.start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(78));
    assert!(exited.stderr.contains("APP_ADMIN__LISTEN"), "{}", exited.stderr);
}

#[tokio::test]
async fn a_report_names_every_fault_and_ends_with_the_first_that_no_restart_mends() {
    let tenant = tenant("all").await;
    let manager = scripted(&tenant).await;
    tenant.put("webhook", "sentinel with spaces").await.unwrap();
    tenant.delete("signing").await.unwrap();
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Status(400, "AccessDeniedException"))]);
    let launch = service(&tenant)
        .env("AWS_ENDPOINT_URL", manager.endpoint())
        .env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    fails(
        launch,
        77,
        &["3 faults", "`database`", "`signing`", "`webhook`", "AccessDenied", "no such secret", "malformed"],
    )
    .await;
}

#[tokio::test]
async fn nothing_listens_before_the_keys_are_held() {
    let tenant = migrated("shut").await;
    let manager = scripted(&tenant).await;
    manager.script([FaultRule::on(tenant.id("signing"), ScriptedFault::Delay(Duration::from_secs(2)))]);
    let (public, admin) = (free_port(), free_port());
    let mut process = service(&tenant)
        .env("AWS_ENDPOINT_URL", manager.endpoint())
        .env("APP_SERVER__LISTEN", format!("127.0.0.1:{public}"))
        .env("APP_ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
        .start();
    let mut looks = 0;
    let asked = Instant::now();
    while manager.requests(&tenant.id("signing")) == 0 {
        assert!(asked.elapsed() < DEFAULT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let held_back = Instant::now();
    while held_back.elapsed() < Duration::from_millis(1800) {
        assert_shut(public);
        assert_shut(admin);
        looks += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(looks > 10);
    process.listening().await;
    for port in [public, admin] {
        TcpStream::connect(("127.0.0.1", port)).expect("it is open now");
    }
}

#[tokio::test]
async fn a_hup_during_bootstrap_is_kept_for_afterwards() {
    let tenant = migrated("early_hup").await;
    let manager = scripted(&tenant).await;
    manager.script([FaultRule::on(tenant.id("signing"), ScriptedFault::Delay(Duration::from_secs(1))).times(1)]);
    let mut process = service(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()).start();
    wait_for_request(&manager, &tenant).await;
    process.signal(Signal::HUP);
    process.signal(Signal::HUP);
    process.listening().await;
    process.wait_for_line(|line| line.contains("the reload ended"), DEFAULT_TIMEOUT).await;
    let reloads = || process.events().iter().filter(|event| event["fields"]["message"] == "the reload ended").count();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(reloads(), 1);
}

#[tokio::test]
async fn a_term_during_bootstrap_is_heard() {
    let tenant = tenant("early_term").await;
    let manager = scripted(&tenant).await;
    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    for signal in [Signal::TERM, Signal::INT] {
        let before = manager.requests(&tenant.id("signing"));
        let mut process = service(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()).start();
        while manager.requests(&tenant.id("signing")) == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let asked = Instant::now();
        process.signal(signal);
        let exited = process.exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, Some(0));
        assert!(asked.elapsed() < Duration::from_secs(5), "long before the deadline of 30 s");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_crash_writes_no_core_dump() {
    let tenant = migrated("core").await;
    let running = RunningService::start(service(&tenant), &tenant).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.process.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
}

async fn wait_for_request(manager: &devstack::ScriptedManager, tenant: &Tenant) {
    let start = Instant::now();
    while manager.requests(&tenant.id("signing")) == 0 {
        assert!(start.elapsed() < DEFAULT_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn no_secret_is_in_the_most_talkative_log() {
    let tenant = migrated("talkative").await;
    tenant.put("webhook", "sentinel-webhook-key").await.unwrap();
    let launch =
        service(&tenant).env("APP_TELEMETRY__FILTER", "trace").env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    let mut running = RunningService::start(launch, &tenant).await;
    running.create("a note").await;
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    running.create("another note").await;
    assert!(running.process.output().contains("TRACE"), "the log is talkative");
    // The output is searched when the process is dropped.
}

#[tokio::test]
async fn the_loudest_log_shows_no_secret() {
    let tenant = migrated("loud").await;
    let loud = service(&tenant).env("APP_TELEMETRY__FILTER", "trace").env("LOG_SENSITIVE_BODIES", "true");
    let mut running = RunningService::start(loud, &tenant).await;
    running.create("a note").await;
    running.process.signal(devstack::Signal::TERM);
    let ended = running.process.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout.contains("aws_smithy_runtime") && ended.stdout.contains("\"TRACE\""), "it is not loud");
}
