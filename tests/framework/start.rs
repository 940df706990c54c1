//! Starts: a service that lacks a credential ends with a report, and nothing listens before all credentials are loaded.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder,
        launch_options::LaunchOptions,
        log_events::events_that_say,
        secrets::{current_password, scripted_manager, wait_for_request},
        time_waits::stays,
    },
};
use devstack::{
    DEFAULT_TIMEOUT, ExitedProcess, FaultRule, Launch, Polling, RunningService, ScriptedFault, Signal, Tenant,
    TestProcess, free_port,
};
use serde_json::{Value, json};
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

/// Runs a start that must fail with this exit code and a report with these texts, and that must never listen.
async fn assert_fails(launch: Launch, code: i32, texts: &[&str]) -> ExitedProcess {
    let (public, admin) = (free_port(), free_port());
    let mut process = launch
        .env("APP_SERVER__LISTEN", format!("127.0.0.1:{public}"))
        .env("APP_ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
        .start();
    assert_closed_until_exit(&mut process, &[public, admin]).await;
    let exited = process.exited(DEFAULT_TIMEOUT).await;
    for part in texts {
        assert!(exited.stderr.contains(part), "{part:?} is missing in:\n{}", exited.stderr);
    }
    assert_eq!(exited.code, Some(code), "{}", exited.stderr);
    assert_eq!(exited.stderr.matches(&format!("(exit code {code})")).count(), 1, "one report:\n{}", exited.stderr);
    let events: Vec<Value> = exited.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let failures: Vec<_> = events.iter().filter(|event| event["fields"]["message"] == "the start failed").collect();
    assert_eq!(failures.len(), 1, "one event:\n{}", exited.stdout);
    assert_eq!(failures[0]["fields"]["exit_code"], code);
    exited
}

/// Checks that nobody listens on this port.
fn assert_closed(port: u16) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err(), "{port} is open");
}

/// Returns `true` if a command socket belongs to this port of an admin listener. Only Linux tells.
fn has_command_socket(admin: u16) -> bool {
    let name = format!("@vestibule-{}@127.0.0.1:{admin}", env!("CARGO_PKG_NAME"));
    std::fs::read_to_string("/proc/net/unix").is_ok_and(|sockets| sockets.lines().any(|line| line.ends_with(&name)))
}

/// Checks every millisecond that nobody listens on these ports, until the process has ended.
async fn assert_closed_until_exit(process: &mut TestProcess, ports: &[u16]) {
    let polling = Polling { interval: Duration::from_millis(1), limit: DEFAULT_TIMEOUT };
    let ended = polling.until(|| {
        for port in ports {
            assert_closed(*port);
        }
        if process.is_running() { None } else { Some(()) }
    });
    ended.await.expect("the process ends in time");
}

/// Prepares the service with a short deadline.
fn launch_with_short_deadline(tenant: &Tenant) -> Launch {
    SERVICE.launch(tenant).with_short_deadline()
}

#[tokio::test]
async fn a_credential_that_does_not_exist_ends_with_66() {
    let tenant = SERVICE.migrated("absent").await;
    tenant.delete("signing").await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 66, &["credential `signing`", &tenant.id("signing"), "create the secret"])
        .await;
    tenant.create_empty("signing").await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 66, &["credential `signing`"]).await;
    tenant.put("signing", "x").await.unwrap();
    let deleting = tenant.client().delete_secret().secret_id(tenant.id("signing")).recovery_window_in_days(7);
    deleting.send().await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 66, &["credential `signing`", "restore it"]).await;
}

#[tokio::test]
async fn a_malformed_credential_ends_with_65() {
    let tenant = SERVICE.migrated("malformed").await;
    let sentinel = "sentinel-malformed";
    let long = format!("{sentinel}{}", "x".repeat(65_530));
    let keys =
        [sentinel.to_owned(), "  \n".into(), format!("{{\"key\":\"{sentinel}\"}}"), format!("{{{sentinel}"), long];
    for value in keys {
        tenant.put("signing", &value).await.unwrap();
        assert_fails(SERVICE.launch(&tenant), 65, &["credential `signing`", &tenant.id("signing"), "malformed"]).await;
    }
    tenant.put_binary("signing", b"sentinel-\xff\x00binary").await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 65, &["credential `signing`", "binary"]).await;
}

#[tokio::test]
async fn an_id_may_have_slashes_wherever_aws_takes_them() {
    let tenant = SERVICE.migrated("slashes").await;
    let id = format!("/{}//signing/", tenant.id("signing").split('/').next().expect("a prefix"));
    let create = tenant.client().create_secret().name(&id).secret_string(devstack::random_key());
    create.send().await.unwrap();
    let launch = SERVICE.launch(&tenant).env("APP_SECRETS__IDS__SIGNING", &id);
    let running = RunningService::start(launch, &tenant).await;
    assert_eq!(running.credential("signing").await["id"], id);
}

#[tokio::test]
async fn a_login_that_is_malformed_ends_with_65_names_the_field_and_shows_no_text_of_it() {
    let tenant = SERVICE.migrated("login_forms").await;
    let (password, user) = (current_password(&tenant).await, tenant.app_role());
    let url = format!("postgres://{user}:{password}@127.0.0.1/db");
    for (value, texts) in [
        (
            format!("{password}\n"),
            ["a bare password in one line, without a newline at its end", "plain text, with a newline at its end"],
        ),
        (json!({ "username": user, "password": password, "host": url }).to_string(), ["`host`", "a JSON object"]),
        (json!({ "username": user, "password": password, "port": "54x" }).to_string(), ["`port`", "a JSON object"]),
        (json!(password).to_string(), ["the JSON of a login", "a JSON string"]),
    ] {
        tenant.put("database", &value).await.unwrap();
        let launch = SERVICE.launch(&tenant).env("APP_DATABASE__USERNAME", &user);
        let exited = assert_fails(launch, 65, &texts).await;
        assert!(!format!("{}{}", exited.stdout, exited.stderr).contains(&password));
    }
    // A byte order mark, a port as text, and empty fields.
    let forms = json!({ "username": user, "password": password, "host": "", "port": "", "dbname": "" });
    tenant.put("database", &format!("\u{feff}{forms}")).await.unwrap();
    let running = SERVICE.start(&tenant).await;
    running.create_note("it has logged in").await;
}

#[tokio::test]
async fn what_weakens_the_service_needs_permission_in_every_profile_but_dev() {
    const TLS: &str = "APP_DATABASE__ALLOW_UNVERIFIED_TLS";
    const HTTP: &str = "APP_SECRETS__AWS__ALLOW_HTTP_ENDPOINT";
    const KEYS: &str = "APP_SECRETS__AWS__ALLOW_STATIC_KEYS";
    let tenant = SERVICE.migrated("strict").await;
    for profile in ["", "production"] {
        let launch = || SERVICE.launch(&tenant).env("APP_PROFILE", profile).with_short_deadline();
        assert_fails(launch().env_remove(TLS), 78, &["APP_DATABASE__TLS", "allow_unverified_tls"]).await;
        assert_fails(launch().env_remove(HTTP), 78, &["AWS_ENDPOINT_URL", "no TLS", "allow_http_endpoint"]).await;
        assert_fails(launch().env_remove(KEYS), 77, &["no identity"]).await;
        let open = launch().env("APP_ADMIN__LISTEN", "0.0.0.0:0").env("APP_ADMIN__ALLOW_ALL_ADDRESSES", "false").run();
        assert_eq!(open.code, Some(78));
        assert!(open.stderr.contains("admin.allow_all_addresses = true"), "{}", open.stderr);
        RunningService::start(launch(), &tenant).await;
    }
    let dev = SERVICE.launch(&tenant).env("APP_PROFILE", "dev").env("APP_SERVICE__WEBHOOK_URL", "\"\"");
    let dev = dev.env("APP_SECRETS__IDS__WEBHOOK", "\"\"").env("APP_ADMIN__LISTEN", "0.0.0.0:0");
    RunningService::start(dev.env_remove(TLS).env_remove(HTTP).env_remove(KEYS), &tenant).await;
}

#[tokio::test]
async fn a_value_outside_of_its_bounds_ends_a_start_and_changes_nothing_in_a_reload() {
    let tenant = SERVICE.migrated("bounds").await;
    let folder = ConfigurationFolder::new();
    let mut running = RunningService::start(folder.launch(&tenant), &tenant).await;
    folder.write("[database]\nmax_connections = 4000000000\n");
    assert_fails(folder.launch(&tenant), 78, &["default.toml:4", "a number from 1 to 10000"]).await;
    assert_eq!(running.reload().await["exit_code"], 78);
    running.create_note("it serves").await;
}

#[tokio::test]
async fn a_manager_that_is_down_is_tried_until_the_deadline_and_ends_with_69() {
    let tenant = SERVICE.tenant("down").await;
    let start = Instant::now();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let texts = ["credential `database`", "credential `signing`", "the manager is unavailable"];
    assert_fails(launch_with_short_deadline(&tenant).env("AWS_ENDPOINT_URL", nowhere), 69, &texts).await;
    assert!(start.elapsed() < DEFAULT_TIMEOUT);
    for fault in [
        ScriptedFault::Status(400, "ThrottlingException"),
        ScriptedFault::Status(500, "InternalServiceError"),
        ScriptedFault::CutBody,
        ScriptedFault::Malformed,
    ] {
        let manager = scripted_manager(&tenant).await;
        manager.script([FaultRule::all(fault.clone())]);
        assert_fails(launch_with_short_deadline(&tenant).with_manager(&manager), 69, &texts).await;
        assert!(manager.requests(&tenant.id("database")) > 1, "{fault:?} is tried again");
    }
}

#[tokio::test]
async fn a_manager_that_recovers_before_the_deadline_fails_no_start() {
    let tenant = SERVICE.migrated("recovers").await;
    let manager = scripted_manager(&tenant).await;
    manager.script([
        FaultRule::all(ScriptedFault::Status(400, "ThrottlingException")).times(2),
        FaultRule::all(ScriptedFault::Status(500, "InternalServiceError")).times(2),
        FaultRule::all(ScriptedFault::CutBody).times(1),
    ]);
    RunningService::start(SERVICE.launch(&tenant).with_manager(&manager), &tenant).await;
}

#[tokio::test]
async fn a_manager_that_never_answers_ends_with_75() {
    let tenant = SERVICE.tenant("hole").await;
    let manager = scripted_manager(&tenant).await;
    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    assert_fails(
        launch_with_short_deadline(&tenant).with_manager(&manager),
        75,
        &["did not answer", "secrets.deadline"],
    )
    .await;
}

#[tokio::test]
async fn a_wrong_password_ends_with_77() {
    let tenant = SERVICE.migrated("wrong").await;
    tenant.set_password(&tenant.app_role(), "sentinel-another").await.unwrap();
    assert_fails(launch_with_short_deadline(&tenant), 77, &["credential `database`", "the other side rejects it"])
        .await;
    // A bare password. The variables that libpq reads do not replace it.
    tenant.put("database", "sentinel-bare").await.unwrap();
    let bare = || launch_with_short_deadline(&tenant).env("APP_DATABASE__USERNAME", tenant.app_role());
    assert_fails(bare().env("PGPASSWORD", "sentinel-another"), 77, &["the other side rejects it"]).await;
    tenant.put("database", "sentinel-another").await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 78, &["database.username"]).await;
    let libpq = [("PGSSLMODE", "verify-full"), ("PGOPTIONS", "-c role=nobody"), ("PGSSLKEY", "/nonexistent")];
    let launch = libpq.into_iter().fold(bare(), |launch, (name, value)| launch.env(name, value));
    RunningService::start(launch, &tenant).await;
}

#[tokio::test]
async fn a_database_that_is_away_ends_with_69() {
    let tenant = SERVICE.migrated("away").await;
    let port = free_port().to_string();
    assert_fails(
        launch_with_short_deadline(&tenant).env("APP_DATABASE__PORT", &port),
        69,
        &["database at 127.0.0.1", &port],
    )
    .await;
    assert_fails(
        launch_with_short_deadline(&tenant).env("APP_DATABASE__NAME", "no_such_database"),
        69,
        &["does not exist"],
    )
    .await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    assert_fails(launch_with_short_deadline(&tenant).env("APP_DATABASE__PORT", &port), 75, &["did not answer"]).await;
}

#[tokio::test]
async fn a_schema_behind_the_binary_ends_with_69_and_says_to_migrate() {
    let tenant = SERVICE.tenant("behind").await;
    assert_fails(SERVICE.launch(&tenant), 69, &["database schema", "migrate"]).await;
}

#[tokio::test]
async fn a_port_in_use_ends_with_71() {
    let tenant = SERVICE.migrated("port").await;
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [public, admin] = taken.each_ref().map(|taken| taken.local_addr().unwrap().to_string());
    let both = launch_with_short_deadline(&tenant).env("APP_SERVER__LISTEN", &public).env("APP_ADMIN__LISTEN", &admin);
    let exited = both.start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(71));
    for part in ["server.listen", &public, "admin.listen", &admin, "in use"] {
        assert!(exited.stderr.contains(part), "{part} is missing in {}", exited.stderr);
    }
    // If one port is free, nobody listens there either.
    let free = free_port();
    let one = launch_with_short_deadline(&tenant);
    let one = one.env("APP_SERVER__LISTEN", format!("127.0.0.1:{free}")).env("APP_ADMIN__LISTEN", &admin);
    let mut process = one.start();
    assert_closed_until_exit(&mut process, &[free]).await;
    assert_eq!(process.exited(DEFAULT_TIMEOUT).await.code, Some(71));
}

#[tokio::test]
async fn two_listeners_on_one_address_end_with_78() {
    let tenant = SERVICE.tenant("one_address").await;
    let address = format!("127.0.0.1:{}", free_port());
    let launch = SERVICE.launch(&tenant).env("APP_SERVER__LISTEN", &address).env("APP_ADMIN__LISTEN", &address);
    let exited = launch.start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(78));
    assert!(exited.stderr.contains("APP_ADMIN__LISTEN"), "{}", exited.stderr);
}

#[tokio::test]
async fn a_report_names_every_fault_and_has_the_exit_code_of_one_that_no_restart_cures() {
    let tenant = SERVICE.tenant("all").await;
    let manager = scripted_manager(&tenant).await;
    tenant.put("webhook", "sentinel with spaces").await.unwrap();
    tenant.delete("signing").await.unwrap();
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Status(400, "AccessDeniedException"))]);
    let launch = SERVICE.launch(&tenant).with_manager(&manager).env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    assert_fails(
        launch.with_short_deadline(),
        77,
        &["3 faults", "`database`", "`signing`", "`webhook`", "AccessDenied", "no such secret", "malformed"],
    )
    .await;
}

#[tokio::test]
async fn nothing_listens_before_all_credentials_are_loaded() {
    let tenant = SERVICE.migrated("shut").await;
    let manager = scripted_manager(&tenant).await;
    manager.script([FaultRule::on(tenant.id("signing"), ScriptedFault::Status(500, "InternalServiceError"))]);
    let (public, admin) = (free_port(), free_port());
    let mut process = SERVICE
        .launch(&tenant)
        .with_manager(&manager)
        .env("APP_SERVER__LISTEN", format!("127.0.0.1:{public}"))
        .env("APP_ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
        .start();
    wait_for_request(&manager, &tenant.id("signing"), 0).await;
    let mut looks = 0;
    let is_closed = async || {
        assert_closed(public);
        assert_closed(admin);
        assert!(!has_command_socket(admin), "the command socket is there");
        looks += 1;
        true
    };
    stays("the closed ports", Duration::from_millis(1800), is_closed).await;
    assert!(looks > 10);
    manager.clear();
    process.listening().await;
    for port in [public, admin] {
        TcpStream::connect(("127.0.0.1", port)).expect("the service listens now");
    }
    assert!(has_command_socket(admin) || !cfg!(target_os = "linux"));
}

#[tokio::test]
async fn a_hup_during_the_start_causes_a_reload_after_it() {
    let tenant = SERVICE.migrated("early_hup").await;
    let manager = scripted_manager(&tenant).await;
    manager.script([FaultRule::on(tenant.id("signing"), ScriptedFault::Delay(Duration::from_secs(1))).times(1)]);
    let mut process = SERVICE.launch(&tenant).with_manager(&manager).start();
    wait_for_request(&manager, &tenant.id("signing"), 0).await;
    process.signal(Signal::HUP);
    process.signal(Signal::HUP);
    process.listening().await;
    process.wait_for_line(|line| line.contains("the reload ended"), DEFAULT_TIMEOUT).await;
    let is_only_one = async || events_that_say(&process, "the reload ended").len() == 1;
    stays("the number of one reload", Duration::from_millis(500), is_only_one).await;
}

#[tokio::test]
async fn a_term_during_the_start_ends_it() {
    let tenant = SERVICE.tenant("early_term").await;
    let manager = scripted_manager(&tenant).await;
    manager.script([FaultRule::all(ScriptedFault::BlackHole)]);
    for signal in [Signal::TERM, Signal::INT] {
        let before = manager.requests(&tenant.id("signing"));
        let mut process = SERVICE.launch(&tenant).with_manager(&manager).start();
        wait_for_request(&manager, &tenant.id("signing"), before).await;
        let start = Instant::now();
        process.signal(signal);
        let exited = process.exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, Some(0));
        assert!(start.elapsed() < Duration::from_secs(15), "long before the deadline of 30 s");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_crash_writes_no_core_dump() {
    let tenant = SERVICE.migrated("core").await;
    let running = SERVICE.start(&tenant).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.process.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
}

#[tokio::test]
async fn no_secret_is_in_a_log_of_all_levels() {
    let tenant = SERVICE.migrated("talkative").await;
    tenant.put("webhook", "sentinel-webhook-key").await.unwrap();
    let launch = SERVICE
        .launch(&tenant)
        .env("APP_TELEMETRY__FILTER", "trace")
        .env("APP_SECRETS__IDS__WEBHOOK", tenant.id("webhook"));
    let mut running = RunningService::start(launch, &tenant).await;
    running.create_note("a note").await;
    tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    running.create_note("another note").await;
    assert!(running.process.output().contains("TRACE"), "the log has all levels");
    // When the process is dropped, its output is searched for secrets.
}

#[tokio::test]
async fn no_secret_is_in_a_log_of_all_levels_with_sensitive_bodies() {
    let tenant = SERVICE.migrated("loud").await;
    let launch = SERVICE.launch(&tenant).env("APP_TELEMETRY__FILTER", "trace").env("LOG_SENSITIVE_BODIES", "true");
    let mut running = RunningService::start(launch, &tenant).await;
    running.create_note("a note").await;
    running.process.signal(Signal::TERM);
    let exited = running.process.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(0));
    assert!(
        exited.stdout.contains("aws_smithy_runtime") && exited.stdout.contains("\"TRACE\""),
        "the log does not have all levels"
    );
}
